"""Every engine on every family: equal to full forwards, and what is said of a clip does not depend on its batch."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
import xarray as xr
from small_clips import CLIPS, SmallClips
from small_models import SMALL
from torch import Tensor

from dit_lens import ablation, attribution, circuits, edits, patching
from dit_lens.attribution import Integral, Smoothing
from dit_lens.interventions import Intervention, Screening, batching, screen, sweep, sweeping
from dit_lens.interventions.literal import sweep_literally
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation, Request, count, repeat, some
from dit_lens.steering import Direction, push, steering

STEP = 0
ALL = range(CLIPS)
PARTS = [2], [1, 0]  # of one clip and of two, also in another order
SAME, OTHER = 3e-4, 0.01  # of the largest effect: effects are differences, which magnify rounding
Engine = Callable[[SmallClips, Sequence[int]], Tensor]  # effects (b, ...) of some of the clips


@pytest.fixture(scope="module", params=list(SMALL))
def clips(request: pytest.FixtureRequest) -> SmallClips:
    return SmallClips(request.param)


def by_step(clips: SmallClips, chosen: Sequence[int]) -> tuple[dict[int, Evaluation], dict[int, Evaluation]]:
    """The clean and the corrupted run, as engines take them."""
    return {STEP: clips.at(chosen, clean=True)}, {STEP: clips.at(chosen)}


def end(velocity: Tensor, cache: object) -> Tensor:
    weight = torch.randn(velocity[0].numel(), generator=torch.Generator().manual_seed(2))
    return velocity.flatten(1).float() @ weight


END = Readout(end)


def stream(clips: SmallClips) -> Readout:
    """What a stream is in the middle of the model."""
    point = "blocks.1.hook_resid_post"

    def read(velocity: object, cache: dict[str, Tensor]) -> Tensor:
        width = cache[point].shape[-1]
        return (cache[point] @ torch.randn(width, generator=torch.Generator().manual_seed(3))).sum(1)

    return Readout(read, (point,))


def effect(table: xr.Dataset | xr.DataArray) -> Tensor:
    values = table["effect"] if isinstance(table, xr.Dataset) else table
    return torch.from_numpy(values.values).flatten(1)


# Engines that rest on a sweep, and the module that calls it.


def heads(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    return effect(patching.patch_heads(clips.lens, *by_step(clips, chosen), [STEP], END))


def attention(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    parts = [p for p in ("q", "k", "v", "pattern") if f"blocks.1.attn.hook_{p}" in clips.lens.table.points]
    return effect(patching.patch_attention(clips.lens, *by_step(clips, chosen), [STEP], stream(clips), parts=parts))


def writes(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    return effect(patching.patch_writes(clips.lens, *by_step(clips, chosen), [STEP], END))


def residual(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    regions = {"first": (0, slice(None), slice(None)), "corner": (slice(None), 0, 0)}
    return effect(patching.patch_residual(clips.lens, *by_step(clips, chosen), [STEP], END, regions=regions))


def without_heads(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    return effect(ablation.ablate_heads(clips.lens, by_step(clips, chosen)[1], [STEP], END, blocks=[0, 1]))


def without_writes(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    return effect(ablation.ablate_writes(clips.lens, by_step(clips, chosen)[1], [STEP], END))


def random_writes(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    replacement = ablation.random_write(0)
    return effect(
        ablation.ablate_heads(clips.lens, by_step(clips, chosen)[1], [STEP], END, replacement=replacement, blocks=[1])
    )


def cut(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    cuts = {"even": ablation.uniform, "frames": ablation.between(((0, *WHOLE), (1, *WHOLE)))}
    return effect(ablation.cut_attention(clips.lens, by_step(clips, chosen)[1], [STEP], END, cuts, by_head=False))


def edges(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    table = circuits.patch_edges(clips.lens, *by_step(clips, chosen), [STEP], END, EDGES)
    return effect(table)


WHOLE = slice(None), slice(None)
EDGES = [("0.1", "readout"), ("mlp 0", "1.0.v"), ("0.0", "1.1.q"), ("0.1", "mlp 1")]
SWEPT: dict[str, Engine] = {
    "patch_heads": heads,
    "patch_attention": attention,
    "patch_writes": writes,
    "patch_residual": residual,
    "ablate_heads": without_heads,
    "ablate_writes": without_writes,
    "random_write": random_writes,
    "cut_attention": cut,
    "patch_edges": edges,
}


# The others.


def everything(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    """Not an engine but what all rest on: the values of all points."""
    names = [name for name, point in clips.lens.table.points.items() if point.axes.startswith("b")]
    _, cache = clips.lens.model.run(clips.at(chosen), Request(names))
    return torch.cat([torch.nn.functional.normalize(x.flatten(1).float(), dim=1) for x in cache.values()], 1)


def steered(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    evaluation, point = clips.at(chosen), "blocks.1.hook_resid_post"
    width = clips.lens.model.run(evaluation, Request(point))[1][point].shape[-1]
    direction = Direction(torch.nn.functional.normalize(torch.arange(1.0, width + 1), dim=0), 2.0, 0.5)
    with steering(clips.lens, point, push(direction, 3.0)):
        return clips.lens.model.velocity(evaluation).flatten(1)


def screened(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    return screen(clips.lens, clips.at(chosen), some_changes(clips, chosen), END)


def screened_edges(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    senders, receivers = ["0.1", "mlp 0"], ["readout", "1.0.v", "1.1.q"]
    estimates = circuits.screen_paths(clips.lens, *by_step(clips, chosen), [STEP], END, senders, receivers, (0.5,))
    return effect(estimates)


POINTS = ["hook_latent", "blocks.1.attn.hook_z"]
Attributions = dict[str, attribution.Attribution]


def flat(attributions: Attributions) -> Tensor:
    return torch.cat([attributions[point].values.flatten(1).float() for point in POINTS], 1)


def integrated(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    (clean, corrupted), line = (run[STEP] for run in by_step(clips, chosen)), Integral(steps=2, limit=10.0)
    return flat(attribution.integrated_gradients(clips.lens, clean, corrupted, POINTS, END, line))


def first_order(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    clean, corrupted = (run[STEP] for run in by_step(clips, chosen))
    return flat(attribution.gradient_times_difference(clips.lens, clean, corrupted, POINTS, END))


def smoothed(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    clean, corrupted = (run[STEP] for run in by_step(clips, chosen))
    return flat(attribution.smooth_gradients(clips.lens, clean, corrupted, POINTS, END, Smoothing(samples=1)))


def conducted(clips: SmallClips, chosen: Sequence[int]) -> Tensor:
    clean, corrupted = (run[STEP] for run in by_step(clips, chosen))
    return flat(attribution.conductance(clips.lens, clean, corrupted, POINTS, END, steps=1))


ENGINES: dict[str, Engine] = SWEPT | {
    "run": everything,
    "steering": steered,
    "screen": screened,
    "screen_paths": screened_edges,
    "integrated_gradients": integrated,
    "gradient_times_difference": first_order,
    "smooth_gradients": smoothed,
    "conductance": conducted,
}


# Literal twins of these are slow, and their sweeps are the same as those of the others.
LONG = ("patch_attention", "patch_writes", "patch_residual", "ablate_heads", "ablate_writes", "cut_attention")


def some_changes(clips: SmallClips, chosen: Sequence[int]) -> list[Intervention]:
    names = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_q", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_pre"]
    _, cache = clips.lens.model.run(clips.at(chosen, clean=True), Request(names))
    return [Intervention.single(name, edits.patch(cache[name])) for name in names]


def distance(values: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value; NaN must stand at the same places."""
    assert values.shape == expected.shape and torch.equal(values.isnan(), expected.isnan())
    return float((values - expected).nan_to_num().abs().max() / expected.nan_to_num().abs().max())


def mixed_up(joined: Callable[..., Iterator[Tensor]]) -> Callable[..., Iterator[Tensor]]:
    """A wrong batch: copies take the streams of their neighbours."""

    def call(copies: batching.Copies, begin: Sequence[str], new: int) -> Iterator[Tensor]:
        for stream in joined(copies, begin, new):
            yield torch.cat([stream[:CLIPS], stream[CLIPS:].roll(1, 0)])

    return call


def test_a_sweep_is_what_full_forwards_tell_and_a_wrong_batch_is_noticed(
    clips: SmallClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, changes, metrics = clips.at(ALL), some_changes(clips, ALL), {"end": END, "stream": stream(clips)}
    fast, slow = (sweep(clips.lens, at, changes, metrics, method=m).effect for m in ("exact", "literal"))
    monkeypatch.setattr(batching.Copies, "_with_copies", mixed_up(batching.Copies._with_copies))
    wrong = sweep(clips.lens, at, changes, metrics).effect
    for name in metrics:
        assert distance(fast[name], slow[name]) < SAME
        assert (slow[name].abs().amax(0) > 1e-4).all()
    assert distance(wrong["end"], slow["end"]) > OTHER  # the control


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEPT)
def test_an_engine_tells_what_full_forwards_do(clips: SmallClips, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = SWEPT[name](clips, ALL)
    monkeypatch.setattr(sweeping, "sweep_exactly", lambda *args: sweep_literally(*args[:5]))
    slow = SWEPT[name](clips, ALL)
    assert distance(fast, slow) < SAME
    assert slow.nan_to_num().abs().max() > 1e-4


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in ENGINES])
def test_what_an_engine_says_of_a_clip_does_not_depend_on_its_batch(clips: SmallClips, name: str) -> None:
    whole = ENGINES[name](clips, ALL)
    for chosen in PARTS:
        assert distance(ENGINES[name](clips, chosen), whole[chosen]) < SAME
    assert distance(whole.roll(1, 0), whole) > OTHER  # the control: clips differ by more than that


def test_a_clip_takes_from_its_donor_whatever_else_is_in_the_batch(clips: SmallClips) -> None:
    circuit = ["0.1", "mlp 1"]

    def left(chosen: Sequence[int], donors: Sequence[int]) -> Tensor:
        """The metric without a circuit and without the rest, and effects of resampled heads."""
        corrupted, donor = by_step(clips, chosen)[1], torch.tensor(donors)
        table = circuits.ablate_circuit(clips.lens, corrupted, [STEP], END, circuit, donor, draws=1)
        resampled = ablation.ablate_heads(
            clips.lens, corrupted, [STEP], END, replacement=ablation.resampled(donor), blocks=[1]
        )
        return torch.cat([torch.from_numpy(table.value.values).flatten(1), effect(resampled)], 1)

    whole, pair = left([0, 1, 2], [1, 0, 1]), left([1, 0], [1, 0])
    assert distance(pair, whole[[1, 0]]) < SAME
    assert distance(left([0, 1, 2], [2, 2, 1])[[1, 0]], pair) > OTHER  # the control: other donors


def test_all_the_effects_that_a_screen_verifies_are_those_of_full_forwards(clips: SmallClips) -> None:
    at, changes = clips.at(ALL), some_changes(clips, ALL)
    effects = sweep(clips.lens, at, changes, {"": END}, method=Screening(top=2, sample=1))
    slow = sweep(clips.lens, at, changes, {"": END}, method="literal").effect[""]
    known = [*effects.screened[""].verified, *effects.screened[""].checked]
    assert len(known) == 3 and distance(effects.effect[""][:, known], slow[:, known]) < SAME


def test_integrated_gradients_add_up_to_the_effect_of_a_whole_patch(clips: SmallClips) -> None:
    clean, corrupted, point = clips.at(ALL, clean=True), clips.at(ALL), "blocks.1.attn.hook_z"
    attributed = attribution.integrated_gradients(clips.lens, clean, corrupted, point, END, Integral(steps=8))[point]
    source = clips.lens.model.run(clean, Request(point))[1][point]
    whole = sweep(
        clips.lens, corrupted, [Intervention.single(point, edits.patch(source))], {"": END}, method="literal"
    ).effect[""]
    assert distance(attributed.change[:, None], whole) < SAME
    assert distance(attributed.values.flatten(1).sum(1, keepdim=True), whole) < 0.01  # by quadrature


NESTED = {
    "tuple": lambda x: (x, None),
    "list": lambda x: [x, 3, "text", [x]],
    "dict": lambda x: {"text": x, "scale": 1.5, "more": {"none": None, "image": (x,)}},
    "named": lambda x: namedtuple("Two", "text image")(x, x.flip(1)),
}


@pytest.mark.parametrize("kind", NESTED)
def test_clips_are_chosen_and_copied_in_containers_of_any_nesting(kind: str) -> None:
    text, latent = torch.arange(6.0).reshape(3, 2), torch.zeros(3, 4)
    fed = {"hidden_states": latent, "timestep": torch.tensor(0.5), "text": NESTED[kind](text), "flag": False}
    at = Evaluation(fed, None, 0.5)
    for result, rows in (
        (repeat(at, 2), [0, 1, 2, 0, 1, 2]),
        (some(at, [2, 0]), [2, 0]),
        (some(at, slice(1, 3)), [1, 2]),
    ):
        assert str(result.inputs["text"]) == str(NESTED[kind](text[rows]))
        assert count(result) == len(rows) and result.inputs["timestep"] is fed["timestep"]


def test_what_is_there_for_all_clips_at_once_stays_and_the_rest_is_refused() -> None:
    fed = {"hidden_states": torch.zeros(1, 4), "image_rotary_emb": (torch.zeros(1, 2), torch.zeros(5, 2))}
    at = Evaluation(fed | {"padding_mask": torch.zeros(1, 1, 2, 2)}, None, 0.5)
    for name in ("image_rotary_emb", "padding_mask"):
        assert repeat(at, 3).inputs[name] is at.inputs[name] is some(at, [0]).inputs[name]
    wrong = Evaluation({"hidden_states": torch.zeros(3, 4), "text": (torch.zeros(2, 5),)}, None, 0.5)
    with pytest.raises(
        ValueError, match=r"got text of shape \(2, 5\) in an evaluation of 3 clips · expected one value"
    ):
        repeat(wrong, 2)
