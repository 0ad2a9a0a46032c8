"""Parts of a model by name, and the stream that each reads.

"3.1" is head 1 of block 3 and "3.1.v" what it takes in as values ("q", "k" likewise); "mlp 3", "attn 3" and
"cross_attn 3" are whole writes; "readout" is the stream that a metric is worked out from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dit_lens.cache.anatomy import is_stream, stream_of
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric
from dit_lens.sweeps.changes import is_behind, last

READOUT = "readout"
Edge = tuple[str, str]


@dataclass(frozen=True)
class Part:
    """What a name such as "3.1.v" stands for.

    Attributes:
        point: hook point of its value.
        write: hook point of what it adds to the stream.
        heads: which heads of `point`; all if None.
    """

    point: str
    write: str
    heads: tuple[int, ...] | None = None

    @classmethod
    def of(cls, name: str) -> Part:
        """The part of a name.

        Raises:
            ValueError: no such spelling.
        """
        if head := re.fullmatch(r"(\d+)\.(\d+)(?:\.(q|k|v))?", name):
            block, index, taken = head.groups()
            return cls(f"blocks.{block}.attn.hook_{taken or 'z'}", f"blocks.{block}.hook_attn_out", (int(index),))
        if whole := re.fullmatch(r"(\w+) (\d+)", name):
            point = f"blocks.{whole[2]}.hook_{whole[1]}_out"
            return cls(point, point)
        raise ValueError(f'got part {name!r} · expected "3.1" (block.head), "3.1.v", "mlp 3" or "readout"')


def writing_part(name: str) -> Part:
    """The part of a name that writes to the stream.

    Raises:
        ValueError: it writes nothing, or no such spelling.
    """
    if name == READOUT or name.endswith((".q", ".k", ".v")):
        raise ValueError(f'got sender {name!r}, which writes nothing · expected "3.1" (block.head) or "mlp 3"')
    return Part.of(name)


def ends_of(edges: Sequence[Edge]) -> tuple[list[str], list[str]]:
    """The senders and the receivers of some paths, each once, in their order.

    Raises:
        ValueError: there are no paths.
    """
    if not edges:
        raise ValueError('got no paths · expected at least one, such as ("3.1", "readout")')
    return list(dict.fromkeys(one for one, _ in edges)), list(dict.fromkeys(other for _, other in edges))


def no_path(senders: Sequence[str], receivers: Sequence[str]) -> ValueError:
    """The error where no sender comes before a receiver."""
    return ValueError(
        f"got no path forward from {', '.join(senders)} to {', '.join(receivers)} · expected a sender before a receiver"
    )


def stream_read(lens: DiTLens, receiver: str, metric: Metric) -> str:
    """The hook point of the stream that a receiver reads: the last one before it.

    Raises:
        ValueError: there is none, or the metric has several points. KeyError: no such hook point.
    """
    if receiver != READOUT:
        end = Part.of(receiver).point
    elif len(metric.points) > 1:
        raise ValueError(
            f"got a metric of {', '.join(metric.points)} · expected one point, or none (the velocity), to which the"
            " stream leads · measure them one by one"
        )
    else:
        end = next(iter(metric.points), "hook_velocity")
    last(lens, [end])  # an unknown one is told with its nearest
    names = list(lens.table.points)
    before = [n for n in names[: names.index(end) + 1] if is_stream(n) and stream_of(n) == ""]
    if not before:
        raise ValueError(f"got {receiver!r}, read at {end}, which no stream comes before · expected one behind a block")
    return before[-1]


def parts_before(lens: DiTLens, metric: Metric) -> list[str]:
    """Every head and MLP that writes to the stream before the readout."""
    end, parts = stream_read(lens, READOUT, metric), []
    for block in range(lens.blocks):
        own = [*(f"{block}.{head}" for head in range(lens.heads)), f"mlp {block}"]
        parts += [name for name in own if is_behind(lens, end, Part.of(name).write)]
    return parts
