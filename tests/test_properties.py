"""Whatever small model and edits: a batch equals its clips one by one, a restart the whole; the rest keeps its bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, HunyuanVideoTransformer3DModel, WanTransformer3DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dit_lens import DiTLens, edits
from dit_lens.axes import Region, TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.edits import Edit
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.interventions import Intervention, sweep
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation, Request, repeat

settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

EditList = list[tuple[str, Edit]]
WRITTEN = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "mlp.hook_post", "hook_mlp_out", "hook_resid_post")
KINDS: dict[str, Callable[..., Edit]] = {
    "zero": lambda x, **where: edits.zero(**where),
    "mean": lambda x, **where: edits.mean(x[0], **where),
    "patch": lambda x, **where: edits.patch(x, **where),
    "resample": lambda x, **where: edits.resample(x, torch.arange(len(x)).flip(0), **where),
    "add": lambda x, **where: edits.add(x[0, 0, ..., :], **where),
    "scale": lambda x, **where: edits.scale(0.5, **where),
    "noise": lambda x, **where: edits.noise(0.5, seed=len(x), **where),
    "project_out": lambda x, **where: edits.project_out(x.flatten(0, -2)[0], **where),
}


def wan(heads: int, layers: int, extra: int) -> nn.Module:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=8 * (1 + extra), num_layers=layers, rope_max_seq_len=32,
    )  # fmt: skip


def cogvideox(heads: int, layers: int, extra: int) -> nn.Module:
    return CogVideoXTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=12, num_layers=layers, sample_width=8, sample_height=8, sample_frames=5, max_text_seq_length=3,
        use_rotary_positional_embeddings=extra > 0,
    )  # fmt: skip


def hunyuan(heads: int, layers: int, extra: int) -> nn.Module:
    return HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=heads, attention_head_dim=12, num_layers=layers,
        num_single_layers=extra, num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=16, pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 4),
    )  # fmt: skip


FAMILIES = {"wan": wan, "cogvideox": cogvideox, "hunyuan": hunyuan}


@lru_cache(maxsize=8)
def small(family: str, heads: int, layers: int, extra: int) -> DiTLens:
    """A lens on a random model; layers that a fresh one leaves at zero are filled."""
    torch.manual_seed(heads + 10 * layers + 100 * extra)
    transformer = FAMILIES[family](heads, layers, extra)
    for parameter in transformer.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return DiTLens(transformer=transformer, verify=False)


class Case:
    """A random model and the evaluation of a few different clips."""

    def __init__(self, lens: DiTLens, clips: int):
        self.lens, self.clips = lens, clips
        examples = [lens.family.example(lens.transformer, torch.Generator().manual_seed(clip)) for clip in range(clips)]
        self.latents = torch.cat([latent for latent, _ in examples])
        self.tensors = {name: torch.cat([tensors[name] for _, tensors in examples]) for name in examples[0][1]}
        names = [name for name in lens.table.points if name.endswith(WRITTEN)]
        self.written = [name for name in names if lens.table.points[name].axes.startswith("b n")]
        _, self.read = lens.model.run_with(self.of(slice(None)), {}, Request(self.written))
        self.grid = lens.model.grid(self.of(slice(None)))

    def __repr__(self) -> str:
        return f"{self.clips} clips on {self.lens}"

    def of(self, clips: slice) -> Evaluation:
        """The evaluation of some of the clips."""
        tensors = Conditioning({name: tensor[clips] for name, tensor in self.tensors.items()})
        return self.lens.model.evaluation(self.latents[clips], self.lens.family.to_timestep(0.5), tensors)

    def velocity(self, listed: EditList, clips: slice = slice(None)) -> Tensor:
        """The velocity of one whole forward with edits."""
        velocity, _ = self.lens.model.run_with(self.of(clips), composed(listed), Request())
        assert velocity is not None
        return velocity

    def acts(self, edit: Edit) -> bool:
        """Whether an edit has chosen anything."""
        tokens = edit.tokens is None or bool(self.grid.mask(*edit.tokens).any())
        return tokens and (edit.heads is None or len(edit.heads) > 0)


def composed(listed: EditList) -> dict[str, list[Edit]]:
    functions: dict[str, list[Edit]] = {}
    for name, edit in listed:
        functions.setdefault(name, []).append(edit)
    return functions


def in_turn(functions: Sequence[Edit]) -> Callable[[Tensor, Hook], Tensor]:
    """Several edits as one."""

    def call(x: Tensor, hook: Hook) -> Tensor:
        for function in functions:
            x = function(x, hook)
        return x

    return call


def of_clip(edit: Edit, clip: int) -> Edit:
    """An edit of a batch, for one clip of it alone."""
    values: dict[str, Any] = dict(edit.values)
    for name in {"patch": ["source"], "resample": ["donors"]}.get(edit.kind, []):
        values[name] = values[name][clip : clip + 1]
    return Edit(edit.kind, values, edit.heads, edit.tokens)


def drawn_case(data: st.DataObject, family: str, fewest: int = 1) -> Case:
    """Of `fewest` to 3 clips; built outside of strategies, which may run no model."""
    config = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1)))
    return Case(small(family, *config), clips=data.draw(st.integers(fewest, 3)))


def parts(size: int) -> st.SearchStrategy[int | slice]:
    """An index or a slice, also an empty one, on an axis of the token grid."""
    ends = st.none() | st.integers(0, size)
    return st.integers(-size, size - 1) | st.builds(slice, ends, ends)


def places(grid: TokenGrid) -> st.SearchStrategy[Region | None]:
    return st.none() | st.tuples(parts(grid.frames), parts(grid.rows), parts(grid.columns))


@st.composite
def lists(draw: st.DrawFn, case: Case, first_block: int = 0, most: int = 3) -> EditList:
    """Some edits at points from a block on."""
    names = [name for name in case.written if int(name.split(".")[1]) >= first_block]
    return [
        (name, draw(an_edit(case, name))) for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=most))
    ]


@st.composite
def an_edit(draw: st.DrawFn, case: Case, name: str) -> Edit:
    x = case.read[name]
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    heads = None
    if x.ndim == 4:
        heads = draw(st.none() | st.lists(st.integers(-x.shape[2], x.shape[2] - 1), max_size=3))
    return KINDS[draw(st.sampled_from(list(KINDS)))](values, heads=heads, tokens=draw(places(case.grid)))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """To the rounding that another batch size makes."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual / scale, expected / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_with_edits_equals_its_clips_one_by_one(family: str) -> None:
    @settings(max_examples=20)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = drawn_case(data, family, fewest=2)
        listed = data.draw(lists(case, most=5))
        together = case.velocity(listed)
        for clip in range(case.clips):
            alone = case.velocity([(name, of_clip(edit, clip)) for name, edit in listed], slice(clip, clip + 1))
            assert_close(together[clip : clip + 1], alone)
        acted = any(case.acts(edit) for _, edit in listed)
        assert torch.equal(together, case.velocity([])) != acted

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_suffix_with_edits_equals_the_whole_to_the_bit(family: str) -> None:
    @settings(max_examples=12)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = drawn_case(data, family)
        start = data.draw(st.integers(0, case.lens.blocks - 1))
        listed, entry = data.draw(lists(case)), case.lens.table.entering(start)
        evaluation = case.of(slice(None))
        whole, cache = case.lens.model.run_with(evaluation, composed(listed), Request(entry))
        later = [(name, edit) for name, edit in listed if int(name.split(".")[1]) >= start and name not in entry]
        functions = {name: in_turn(functions) for name, functions in composed(later).items()}
        again, _ = case.lens.model.run_suffix(evaluation, start, cache, functions, Request())
        assert again is not None and whole is not None and torch.equal(again, whole)

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batched_suffix_with_an_edit_list_per_copy_equals_full_forwards_one_by_one(family: str) -> None:
    """What every sweep rests on."""

    @settings(max_examples=12)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = drawn_case(data, family)
        start = data.draw(st.integers(0, case.lens.blocks - 1))
        of_copies = [data.draw(lists(case, start, most=2)) for _ in range(data.draw(st.integers(1, 3)))]
        entry = case.lens.table.entering(start)
        _, cache = case.lens.model.run_with(case.of(slice(None)), {}, Request(entry))
        entering = {name: torch.cat([cache[name]] * len(of_copies)) for name in entry}
        functions = one_per_copy([composed(listed) for listed in of_copies])
        evaluation = repeat(case.of(slice(None)), len(of_copies))
        velocity, _ = case.lens.model.run_suffix(evaluation, start, entering, functions, Request())
        assert velocity is not None
        for copy, listed in zip(velocity.chunk(len(of_copies)), of_copies, strict=True):
            assert_close(copy, case.velocity(listed))

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_equals_its_literal_self(family: str) -> None:
    """Whatever is changed, by whatever edits together, in batches of whatever size, read in a stream or at the end."""

    @settings(max_examples=12)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = drawn_case(data, family)
        point = f"blocks.{data.draw(st.integers(0, case.lens.blocks - 1))}.hook_resid_post"
        weight = torch.linspace(-1, 1, case.read[point].shape[-1])
        metrics = {
            "stream": Readout(lambda v, cache: (cache[point] @ weight).mean(1), (point,)),
            "end": Readout(lambda v, cache: v.flatten(1).norm(dim=1), ()),
        }
        several = [data.draw(lists(case, most=3)) for _ in range(data.draw(st.integers(1, 4)))]
        changes = [Intervention(pairs) for pairs in several]
        size = data.draw(st.none() | st.integers(1, 4 * case.clips))
        fast = sweep(case.lens, case.of(slice(None)), changes, metrics, batch_size=size)
        slow = sweep(case.lens, case.of(slice(None)), changes, metrics, method="literal")
        for name, effect in slow.effect.items():
            scale = max(float(slow.before[name].abs().max()), float(effect.nan_to_num().abs().max()))
            torch.testing.assert_close(fast.effect[name], effect, atol=1e-5 * scale, rtol=0, equal_nan=True)
            assert torch.isnan(effect).sum() < effect.numel() or name == "stream"

    check()


def one_per_copy(of_copies: list[dict[str, list[Edit]]]) -> Mapping[str, HookFunction]:
    """Hook functions on a batch of copies of the same clips, each with edits of its own."""

    def at(name: str) -> HookFunction:
        def call(x: Tensor, hook: Hook) -> Tensor:
            chunks = zip(x.chunk(len(of_copies)), of_copies, strict=True)
            return torch.cat([in_turn(functions.get(name, ()))(chunk, hook) for chunk, functions in chunks])

        return call

    return {name: at(name) for functions in of_copies for name in functions}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_keeps_the_bits_of_what_it_has_not_chosen_inside_a_model(family: str) -> None:
    @settings(max_examples=12)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = drawn_case(data, family)
        name = data.draw(st.sampled_from([name for name in case.written if name.endswith("_z")]))
        edit = data.draw(an_edit(case, name))
        _, cache = case.lens.model.run_with(case.of(slice(None)), {name: [edit]}, Request(name))
        kept = ~chosen_by_loops(case.read[name].shape, 2, case.grid, edit)
        assert same_bits(cache[name][kept], case.read[name][kept])
        assert bool((cache[name] != case.read[name]).any()) == case.acts(edit)

    check()


@settings(max_examples=100)
@given(st.data())
def test_an_edit_changes_what_it_has_chosen_and_no_other_bit(data: st.DataObject) -> None:
    grid = TokenGrid(*data.draw(st.tuples(*[st.integers(1, 3)] * 3)))
    heads, width, clips = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 4)), data.draw(st.integers(1, 3))
    axes = data.draw(st.sampled_from(["b n k e", "b k n e", "b n d"]))
    sizes = {"b": clips, "n": grid.tokens, "k": heads, "e": width, "d": width}
    shape = [sizes[letter] for letter in axes.split()]
    x, values = torch.randn(2, *shape, generator=torch.Generator().manual_seed(prod(shape)))
    asked = data.draw(st.none() | st.lists(st.integers(-heads, heads - 1), max_size=3)) if "k" in axes else None
    kind = data.draw(st.sampled_from([kind for kind in KINDS if kind != "add" or axes != "b k n e"]))
    edit = KINDS[kind](values, heads=asked, tokens=data.draw(places(grid)))
    before = x.clone()
    edited = edit(x, Hook("blocks.0.attn.hook_z", axes, grid, step=None, sigma=0.5))
    chosen = chosen_by_loops(x.shape, axes.split().index("k") if "k" in axes else None, grid, edit)
    assert same_bits(x, before) and same_bits(edited[~chosen], x[~chosen])
    assert (edited[chosen] != x[chosen]).float().mean() > 0.5 or not chosen.any()


def chosen_by_loops(shape: torch.Size, head_axis: int | None, grid: TokenGrid, edit: Edit) -> Tensor:
    """True where an edit applies, found one token and head at a time."""
    chosen = torch.zeros(shape, dtype=torch.bool)
    frames, rows, columns = (
        range(size)[part] if isinstance(part, slice) else [range(size)[part]]
        for size, part in zip((grid.frames, grid.rows, grid.columns), edit.tokens or [slice(None)] * 3, strict=True)
    )
    places = [(f * grid.rows + r) * grid.columns + c for f in frames for r in rows for c in columns]
    for token in places:
        if head_axis is None:
            chosen[:, token] = True
        else:
            at = chosen.movedim(head_axis, 1)  # (b, k, n, e)
            for head in range(at.shape[1]) if edit.heads is None else edit.heads:
                at[:, head, token] = True
    return chosen


def same_bits(x: Tensor, y: Tensor) -> bool:
    return torch.equal(x.contiguous().view(torch.int32), y.contiguous().view(torch.int32))
