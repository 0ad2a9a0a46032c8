"""Parts of a model by name, and the stream that each part reads.

"3.1" is head 1 of block 3 and "3.1.v" what it takes in as values ("q", "k" likewise); "mlp 3", "attn 3" and
"cross_attn 3" are whole writes; "readout" is the stream from which a metric is computed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dit_lens.cache.anatomy import is_stream, stream_of
from dit_lens.interventions.effects import is_after, last
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric

READOUT = "readout"
Edge = tuple[str, str]


@dataclass(frozen=True)
class CircuitPart:
    """A part of a model, such as "3.1.v".

    Attributes:
        point: hook point of its value.
        write: hook point of what it adds to the stream.
        heads: which heads of `point`; all if None.
    """

    point: str
    write: str
    heads: tuple[int, ...] | None = None

    @classmethod
    def of(cls, name: str) -> CircuitPart:
        """The part with this name.

        Raises:
            ValueError: a name of another form.
        """
        if head := re.fullmatch(r"(\d+)\.(\d+)(?:\.(q|k|v))?", name):
            block, index, input_name = head.groups()
            return cls(f"blocks.{block}.attn.hook_{input_name or 'z'}", f"blocks.{block}.hook_attn_out", (int(index),))
        if write := re.fullmatch(r"(\w+) (\d+)", name):
            point = f"blocks.{write[2]}.hook_{write[1]}_out"
            return cls(point, point)
        raise ValueError(f'got part {name!r} · expected "3.1" (block.head), "3.1.v", "mlp 3" or "readout"')


def writing_part(name: str) -> CircuitPart:
    """The sender with this name, a part that writes to the stream.

    Raises:
        ValueError: a part that writes nothing, or a name of another form.
    """
    if name == READOUT or name.endswith((".q", ".k", ".v")):
        raise ValueError(f'got sender {name!r}, which writes nothing · expected "3.1" (block.head) or "mlp 3"')
    return CircuitPart.of(name)


def ends_of(edges: Sequence[Edge]) -> tuple[list[str], list[str]]:
    """The senders and the receivers of some paths, each once, in their order.

    Raises:
        ValueError: there are no paths.
    """
    if not edges:
        raise ValueError('got no paths · expected at least one, such as ("3.1", "readout")')
    return list(dict.fromkeys(sender for sender, _ in edges)), list(dict.fromkeys(receiver for _, receiver in edges))


def no_path(senders: Sequence[str], receivers: Sequence[str]) -> ValueError:
    """The error for paths without a sender before a receiver."""
    return ValueError(
        f"got no path forward from {', '.join(senders)} to {', '.join(receivers)} · expected a sender before a receiver"
    )


def stream_read(lens: DiTLens, receiver: str, metric: Metric) -> str:
    """The hook point of the stream that a receiver reads: the last one before it.

    Raises:
        ValueError: there is none, or the metric has several points. KeyError: no such hook point.
    """
    if receiver != READOUT:
        end = CircuitPart.of(receiver).point
    elif len(metric.points) > 1:
        raise ValueError(
            f"got a metric of {', '.join(metric.points)} · expected one point, or none (the velocity), to which the"
            " stream leads · measure them one by one"
        )
    else:
        end = next(iter(metric.points), "hook_velocity")
    last(lens, [end])  # raises for an unknown point, naming the nearest
    names = list(lens.table.points)
    before = [n for n in names[: names.index(end) + 1] if is_stream(n) and stream_of(n) == ""]
    if not before:
        raise ValueError(f"got {receiver!r}, read at {end}, which no stream comes before · expected one after a block")
    return before[-1]


def parts_before(lens: DiTLens, metric: Metric) -> list[str]:
    """Every head and MLP that writes to the stream before the readout."""
    end, parts = stream_read(lens, READOUT, metric), []
    for block in range(lens.blocks):
        names = [*(f"{block}.{head}" for head in range(lens.heads)), f"mlp {block}"]
        parts += [name for name in names if is_after(lens, end, CircuitPart.of(name).write)]
    return parts
