"""Wild arguments of the public API, in a process without a type checker: `python tests/fuzzing.py --examples 200`.

Every outcome is a value of the right shape, or an error that says what was got and what is expected.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import xarray as xr
from fuzzing_paths import OnPath
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from small_clips import SmallClips
from torch import Tensor
from wild_arguments import (
    AXES,
    GRID,
    MANY,
    NAME,
    SCALAR,
    SHAPES,
    STREAM,
    TENSOR,
    TEXT,
    TOKENS,
    VALUE,
    WILD,
    Z,
)  # fmt: skip

from dit_lens import ablation, attribution, circuits, edits, interventions, patching, reductions, steering
from dit_lens.attribution import Integral, Smoothing
from dit_lens.hook_points import Hook
from dit_lens.interventions import Intervention
from dit_lens.metrics import Readout, VelocityError, VelocityProjection

HOUSE = ValueError, TypeError, KeyError, IndexError, RuntimeError, FloatingPointError, FileNotFoundError
Call = Callable[[Callable[[st.SearchStrategy], Any]], Any]  # of what draws an argument

KINDS: dict[str, tuple[st.SearchStrategy, ...]] = {
    "zero": (), "mean": (VALUE,), "patch": (VALUE,), "resample": (VALUE, VALUE), "add": (VALUE,), "scale": (SCALAR,),
    "noise": (SCALAR, SCALAR), "project_out": (VALUE,), "cut": (VALUE,), "evenly": (),
}  # fmt: skip


def edited(draw: Callable, kind: str) -> None:
    heads, tokens = (draw(st.none() | WILD), draw(st.none() | TOKENS))
    edit = getattr(edits, kind)(*map(draw, KINDS[kind]), heads=heads, tokens=tokens)
    point = draw(st.sampled_from(list(SHAPES)))
    x = torch.randn(SHAPES[point])
    result = edit(x, Hook(point, AXES[point], GRID, draw(st.sampled_from([0, 1, None])), 0.5))
    assert result.shape == x.shape and torch.isfinite(result).all()


def reduced(draw: Callable) -> None:
    reduction = reductions.parse(draw(TEXT | WILD))
    assert str(reduction) != "none" or "none" in str(reduction)
    reduction(torch.randn(SHAPES[STREAM]), Hook(STREAM, AXES[STREAM], GRID, None, 0.5))


class OnModel:
    """Calls on a small Wan, two clips at a time."""

    def __init__(self) -> None:
        clips = SmallClips("wan")
        self.lens, self.at, self.clean = clips.lens, clips.at([0, 1]), clips.at([0, 1], clean=True)
        self.pair = {0: self.clean}, {0: self.at}
        self.end = Readout(lambda v, cache: v.flatten(1).mean(1))
        self.changes = [Intervention.single(Z, edits.zero([0])), Intervention.single(STREAM, edits.scale(0.5))]

    def measured(self, value: Any) -> Readout:
        return Readout(lambda v, cache: value)

    def hooked(self, draw: Callable) -> Any:
        hooks = draw(st.just([(Z, edits.zero())]) | st.tuples(NAME, st.just(edits.zero())).map(lambda h: [h]) | MANY)
        where = [draw(st.none() | WILD) for _ in range(draw(st.integers(0, 3)))]
        with self.lens.hooks(hooks, *where):
            return self.lens.model.velocity(self.at)

    def swept(self, draw: Callable) -> Any:
        changes = draw(st.just(self.changes) | MANY | NAME.map(lambda name: [Intervention.single(name, edits.zero())]))
        metric = draw(st.just(self.end) | (VALUE | SCALAR).map(self.measured))
        size = draw(st.none() | SCALAR)
        return interventions.sweep(self.lens, self.at, changes, {"": metric}, batch_size=size).effect[""]

    def screened(self, draw: Callable) -> Any:
        options = {"top": draw(SCALAR), "sample": draw(SCALAR), "seed": draw(st.just(0) | SCALAR)}
        screening = interventions.Screening(**options)
        return (
            interventions.sweep(self.lens, self.at, self.changes, {"": self.end}, method=screening)
            .screened[""]
            .estimate
        )

    def patched(self, draw: Callable) -> Any:
        steps, regions = draw(st.just([0]) | WILD), draw(st.none() | TOKENS.map(lambda t: {"r": t}) | WILD)
        return patching.patch_heads(self.lens, *self.pair, steps, self.end, regions=regions)

    def patched_parts(self, draw: Callable) -> Any:
        return patching.patch_attention(self.lens, *self.pair, [0], self.end, parts=draw(st.just(["q"]) | NAME | MANY))

    def patched_stream(self, draw: Callable) -> Any:
        metric = VelocityProjection(draw(TOKENS))
        return patching.patch_residual(self.lens, *self.pair, [0], metric, point=draw(st.just("resid_pre") | NAME))

    def ablated(self, draw: Callable) -> Any:
        replacement = draw(st.just(ablation.zero) | VALUE.map(ablation.resampled) | st.just(ablation.random_write(0)))
        return ablation.ablate_heads(
            self.lens, self.pair[1], [0], self.end, replacement=replacement, blocks=draw(st.just([1]) | WILD)
        )

    def without_writes(self, draw: Callable) -> Any:
        writes = draw(st.just(["mlp_out"]) | NAME)
        truth = draw(TENSOR | st.just(torch.zeros(2, 4, 2, 8, 8)))
        return ablation.ablate_writes(self.lens, self.pair[1], [0], VelocityError(truth), writes=writes)

    def cut(self, draw: Callable) -> Any:
        cuts = {"c": ablation.between((draw(TOKENS), draw(TOKENS)))}
        return ablation.cut_attention(self.lens, self.pair[1], [0], self.end, cuts)

    def integrated(self, draw: Callable) -> Any:
        line = Integral(
            draw(st.just(2) | SCALAR.filter(lambda n: n != 10**6)), draw(st.just("gausslegendre") | NAME),
            draw(st.sampled_from(["clean", "corrupted", "cleen", 3])), limit=10, batch_size=draw(SCALAR | st.just(4)),
        )  # fmt: skip
        return attribution.integrated_gradients(self.lens, self.clean, self.at, draw(NAME), self.end, line)

    def first_order(self, draw: Callable) -> Any:
        metric = draw(st.just(self.end) | VALUE.map(self.measured))
        side = draw(st.sampled_from(["clean", "corrupted", "x"]))
        return attribution.gradient_times_difference(self.lens, self.clean, self.at, Z, metric, side)

    def smoothed(self, draw: Callable) -> Any:
        smoothing = Smoothing(draw(SCALAR.filter(lambda n: n != 10**6)), draw(st.just(0.1) | SCALAR), draw(SCALAR))
        return attribution.smooth_gradients(self.lens, self.clean, self.at, Z, self.end, smoothing)

    def conducted(self, draw: Callable) -> Any:
        steps = draw(SCALAR.filter(lambda n: n != 10**6))
        return attribution.conductance(self.lens, self.clean, self.at, draw(NAME), self.end, steps)

    def edges(self, draw: Callable) -> Any:
        ends = st.lists(st.sampled_from(["0.1", "mlp 0", "1.0.v", "readout", "9.9", "mlp", ""]) | SCALAR, max_size=2)
        return circuits.patch_paths(self.lens, *self.pair, [0], self.end, draw(ends), draw(ends))

    def screened_edges(self, draw: Callable) -> Any:
        ranks = {"top": draw(SCALAR), "sample": draw(SCALAR), "shares": draw(st.just((0.5,)) | MANY)}
        return circuits.screened_paths(self.lens, *self.pair, [0], self.end, ["0.1"], ["readout", "1.0.v"], **ranks)

    def circuit(self, draw: Callable) -> Any:
        effect = xr.DataArray([[1.0, -2.0]], {"sender": ["0.0"], "receiver": ["1.0.v", "readout"]})
        return circuits.circuit(effect.rename({"dim_0": "sender"}) if "dim_0" in effect.dims else effect,
                             draw(st.none() | SCALAR), draw(st.just(0.0) | SCALAR))  # fmt: skip

    def without_circuit(self, draw: Callable) -> Any:
        donors = draw(st.just(torch.tensor([1, 0])) | VALUE)
        parts, draws = draw(st.just(["0.1"]) | MANY), draw(st.sampled_from([0, 1, -1, "a", 0.5, None, True]))
        return circuits.ablate_circuit(self.lens, self.pair[1], [0], self.end, parts, donors, draws, draw(SCALAR))

    def steered(self, draw: Callable) -> Any:
        direction = steering.Direction(torch.ones(24) / 24**0.5, 1.0, 0.0)
        pushed = steering.push(direction, draw(SCALAR), draw(st.none() | TOKENS))
        sigmas = draw(st.just((0.0, 1.0)) | MANY | SCALAR)
        with steering.steering(self.lens, draw(NAME), pushed, draw(st.none() | WILD), sigmas):
            return self.lens.model.velocity(self.at)


def calls() -> dict[str, Call]:
    """All that are tried, by name."""
    named: dict[str, Call] = {}
    for model in (OnModel(), OnPath()):
        named |= {name: getattr(model, name) for name, method in vars(type(model)).items() if callable(method)}
    named = {name: call for name, call in named.items() if name[0] != "_" and name != "measured"}
    return {f"edits.{kind}": lambda draw, kind=kind: edited(draw, kind) for kind in KINDS} | {"parse": reduced} | named


def is_house(error: BaseException) -> bool:
    """Whether an error says what was got and what is expected."""
    return isinstance(error, HOUSE) and " · " in str(error)


def tried(call: Call, examples: int, outcomes: Counter[str], bad: dict[str, str], seed: int | None) -> None:
    """Tries a call with so many wild arguments; `bad` takes what is no value and no error as it should be."""

    @settings(max_examples=examples, derandomize=seed is None, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def check(data: st.DataObject) -> None:
        drawn: list[Any] = []

        def draw(strategy: st.SearchStrategy) -> Any:
            drawn.append(data.draw(strategy))
            return drawn[-1]

        try:
            result = call(draw)
        except Exception as error:
            outcomes["refused" if is_house(error) else "bad"] += 1
            if not is_house(error):
                bad.setdefault(f"{type(error).__name__}: {str(error)[:150]}", str(drawn)[:300])
            return
        outcomes["value"] += 1
        if isinstance(result, Tensor) and result.shape[0] != 2:
            bad.setdefault(f"shape {tuple(result.shape)}", str(drawn)[:300])

    check()


def main(examples: int, only: str, seed: int | None) -> int:
    """Prints how every call fared; the number of kinds of wrong outcomes."""
    wrong, total = 0, 0
    for name, call in calls().items():
        if only in name:
            outcomes: Counter[str] = Counter()
            bad: dict[str, str] = {}
            with torch.random.fork_rng():
                tried(call, examples, outcomes, bad, seed)
            wrong, total = wrong + len(bad), total + sum(outcomes.values())
            print(f"{name}: {dict(outcomes)}", flush=True)
            for what, arguments in bad.items():
                print(f"    {what} <- {arguments}", flush=True)
    print(f"{total} inputs tried, {wrong} kinds of wrong outcomes")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    raise SystemExit(bool(main(options.examples, options.only, options.seed)))
