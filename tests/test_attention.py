"""Attention without the matrix is that with it: every number and map, every family, mask, length and block size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attention_by_matrix as by_matrix
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL, build
from torch.utils._python_dispatch import TorchDispatchMode

from dit_lens import DiTLens, attention, laws
from dit_lens.attention import heads as heads_module
from dit_lens.attention.bands import band_errors
from dit_lens.attention.head_numbers import Numbers, key_masses, numbers
from dit_lens.attention.heads import Heads
from dit_lens.attention.looking import PATTERN, projections
from dit_lens.attention.objects import object_numbers
from dit_lens.axes import TokenGrid
from dit_lens.hook_points import QKV, Hook
from dit_lens.running import Evaluation, Request

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=list(SMALL))
def lens(request: pytest.FixtureRequest) -> DiTLens:
    return DiTLens(transformer=build(request.param), name=request.param, verify=False)


@pytest.fixture(scope="module")
def evaluation(lens: DiTLens) -> Evaluation:
    return laws.example(lens.model.members[0])


def layers(lens: DiTLens) -> list[str]:
    names = {name.split(".", 2)[2] for name in lens.table.points if name.endswith(PATTERN)}
    return sorted(name.removesuffix(PATTERN) for name in names)


def patterns(lens: DiTLens, evaluation: Evaluation, layer: str) -> dict[int, np.ndarray]:
    """The whole matrices (clip, head, queries, keys), by block."""
    _, cache = lens.model.run_with(evaluation, {}, Request(f"blocks.*.{layer}{PATTERN}"))
    named = {name: x for name, x in cache.items() if name.split(".", 2)[2] == f"{layer}{PATTERN}"}
    return {int(name.split(".")[1]): x.double().numpy() for name, x in named.items()}


def looked_at(lens: DiTLens, evaluation: Evaluation, name: str) -> tuple[QKV, Hook]:
    visited: list[tuple[QKV, Hook]] = []
    lens.model.run(evaluation, Request(attention={name: lambda qkv, hook: visited.append((qkv, hook))}))
    return visited[0]


def test_in_every_family_and_layer_the_atlas_is_that_of_the_models_pattern(
    lens: DiTLens, evaluation: Evaluation
) -> None:
    grid = lens.model.grid(evaluation)
    for layer in layers(lens):
        table = attention.atlas(lens, evaluation, layer=layer, numbers=Numbers(samples=10**6))
        for block, matrices in patterns(lens, evaluation, layer).items():
            for clip, head in np.ndindex(matrices.shape[:2]):
                row = table.sel(block=block, head=head).isel(clip=clip)
                matrix = matrices[clip, head]
                computed = dict(zip(row.number.values.tolist(), row.plain.values.tolist(), strict=True))
                expected = {"entropy": by_matrix.entropy(matrix), "stripe": by_matrix.stripe(matrix)}
                if "dt_0" in computed:
                    expected |= by_matrix.of_video(matrix, grid)
                elif "text" in computed:
                    queries = by_matrix.live(matrix)
                    expected["text"] = matrix[queries, grid.tokens :].sum(1).mean()
                bands = {name for name in computed if name.startswith("band_")}
                assert computed.keys() - bands == expected.keys()
                for name, value in expected.items():
                    np.testing.assert_allclose(computed[name], value, **CLOSE, err_msg=f"{layer} {name}")


def test_value_weighted_numbers_and_bands_use_the_models_values(lens: DiTLens, evaluation: Evaluation) -> None:
    """Norms of v W_O from `hook_result`'s own projection; bands against outputs written out row by row."""
    name = f"blocks.1.attn{PATTERN}"
    qkv, hook = looked_at(lens, evaluation, name)
    table = attention.atlas(lens, evaluation, blocks=[1], numbers=Numbers(samples=10**6, band=0.7))
    matrices, grid = patterns(lens, evaluation, "attn")[1], hook.grid
    weight = projections(lens.model.anatomy(evaluation.expert), name, qkv)
    assert weight is not None
    for clip, head in np.ndindex(matrices.shape[:2]):
        values = qkv.v[clip, :, head].double()
        norms = (values @ weight[head].double()).norm(dim=-1).numpy()
        row = table.isel(clip=clip, head=head, block=0)
        expected = by_matrix.of_video(by_matrix.weighted(matrices[clip, head], norms), grid)
        for number, value in expected.items():
            np.testing.assert_allclose(row.value_weighted.sel(number=number), value, **CLOSE, err_msg=number)
        lost = by_matrix.band_errors(matrices[clip, head], values.numpy(), grid, 0.7, np.arange(grid.tokens))
        for number, value in lost.items():
            np.testing.assert_allclose(row.plain.sel(number=f"band_{number}"), value, rtol=1e-4, atol=1e-6)
        ratio = lost["spatial"] / lost["temporal"]
        np.testing.assert_allclose(row.plain.sel(number="band_ratio"), ratio, rtol=1e-3)
    assert np.isnan(table.value_weighted.sel(number=["entropy", "stripe", "band_ratio"])).all()


def test_maps_are_those_of_the_models_pattern(lens: DiTLens, evaluation: Evaluation) -> None:
    matrices, grid = patterns(lens, evaluation, "attn")[1], lens.model.grid(evaluation)
    clip, head, tokens = len(matrices) - 1, 1, grid.tokens
    matrix = matrices[clip, head]
    video, text = matrix[:, :tokens], matrix.shape[1] - tokens

    def mapped(look: attention.Map, layer: str = "attn") -> xr.Dataset:
        return attention.maps(lens, evaluation, look, blocks=[1], heads=[head], layer=layer).isel(
            clip=clip, block=0, head=0
        )

    np.testing.assert_allclose(mapped(attention.frames()).mass, by_matrix.frames(matrix, grid), **CLOSE)
    start, odd = (0, slice(None), slice(None)), torch.arange(tokens) % 2 == 1
    keys: dict[str, Any] = {"start": start, "odd": odd} | ({"text": "text"} if text else {})
    table = mapped(attention.regions({"start": start, "odd": odd}, keys)).mass
    first, whole = grid.mask(frame=0).numpy(), {"text": matrix[:, tokens:]} if text else {}
    of_keys = {"start": video[:, first], "odd": video[:, odd.numpy()], **whole}
    for queries, chosen in (("start", first), ("odd", odd.numpy())):
        for name, part in of_keys.items():
            np.testing.assert_allclose(table.sel(region=queries, key_region=name), part[chosen].sum(1).mean(), **CLOSE)
    on_grid = (grid.frames, grid.rows, grid.columns)
    np.testing.assert_allclose(
        mapped(attention.from_tokens(odd)).mass, video[odd.numpy()].mean(0).reshape(on_grid), **CLOSE
    )
    np.testing.assert_allclose(
        mapped(attention.to_tokens(start)).mass, video[:, first].sum(1).reshape(on_grid), **CLOSE
    )
    top = mapped(attention.top_keys(3, start))
    order = np.sort(matrix[first], 1)[:, ::-1]
    np.testing.assert_allclose(top.mass, order[:, :3], **CLOSE)
    np.testing.assert_allclose(np.take_along_axis(matrix[first], top.key.values, 1), order[:, :3], **CLOSE)


def test_words_meet_the_grid_wherever_text_is_attended_to_or_attends(lens: DiTLens, evaluation: Evaluation) -> None:
    grid, met, spelled = lens.model.grid(evaluation), 0, {"two": [0, 2], "one": [1]}
    for layer in ("attn", "cross_attn", "text.attn"):
        if layer not in layers(lens):
            continue
        matrix = patterns(lens, evaluation, layer)[1][0, 0]
        if layer == "attn" and matrix.shape[1] == grid.tokens:
            with pytest.raises(ValueError, match="got 'two' at text tokens"):
                attention.maps(lens, evaluation, attention.words(spelled), layer=layer)
            continue
        table = attention.maps(lens, evaluation, attention.words(spelled), layer=layer, blocks=[1], heads=[0])
        map_of_word, met = table.mass.isel(clip=0, block=0, head=0), met + 1
        for word, places in spelled.items():
            first = matrix.shape[1] - grid.tokens if layer == "attn" else 0
            if layer == "text.attn":
                alive = [place for place in places if matrix[place].sum() > 0.5]
                expected = matrix[alive][:, : grid.tokens].mean(0)
            else:
                offset = grid.tokens if first else 0
                expected = matrix[:, [offset + place for place in places]].sum(1)
            np.testing.assert_allclose(map_of_word.sel(word=word).values.ravel(), expected, **CLOSE)
    assert met


def test_a_hooked_pattern_is_refused_and_an_edited_query_is_seen(lens: DiTLens, evaluation: Evaluation) -> None:
    name = f"blocks.1.attn{PATTERN}"
    with pytest.raises(ValueError, match="hooked or kept while attention"), lens.hooks([(name, lambda x, hook: None)]):
        attention.atlas(lens, evaluation)
    queries = "blocks.1.attn.hook_rot_q" if "blocks.1.attn.hook_rot_q" in lens.table.points else "blocks.1.attn.hook_q"
    before = attention.atlas(lens, evaluation)
    with lens.hooks([(queries, lambda x, hook: 0 * x)]):
        table = attention.atlas(lens, evaluation)
    assert not np.allclose(before.plain.sel(block=1), table.plain.sel(block=1), equal_nan=True)
    np.testing.assert_array_equal(before.plain.sel(block=0), table.plain.sel(block=0))
    np.testing.assert_allclose(table.plain.sel(block=1, number="entropy"), 1.0, atol=1e-5)


# Without a model: any sizes, masks and blocks.


@st.composite
def random_heads(draw: st.DrawFn) -> Heads:
    grid = TokenGrid(draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    text, width, count = draw(st.sampled_from([0, 1, 5])), draw(st.sampled_from([3, 8, 17])), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    sharp, keys = draw(st.sampled_from([1.0, 5.0])), grid.tokens + text

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    kind, bias = draw(st.sampled_from(["none", "keys", "pairs", "padded", "additive"])), None
    if kind == "keys":
        bias = torch.where(torch.rand(1, 1, keys, generator=generator) < 0.3, -torch.inf, 0.0).double()
        bias[..., 0] = 0
    elif kind in ("pairs", "padded"):
        bias = torch.where(torch.rand(count, grid.tokens, keys, generator=generator) < 0.3, -torch.inf, 0.0).double()
        bias[..., 0] = 0
        if kind == "padded" and grid.tokens > 1:
            bias[:, 0] = -torch.inf
    elif kind == "additive":
        bias = random(1, 1, keys)
    letters = "n+m" if text else "n"
    block = draw(st.sampled_from([1, 29, 10**6]))
    return Heads(
        sharp * random(count, grid.tokens, width), random(count, keys, width), random(count, keys, width), bias, grid,
        "n", letters, random(count, width, 11), block=block,
    )  # fmt: skip


def whole(heads: Heads) -> torch.Tensor:
    logits = heads.q @ heads.k.mT * heads.q.shape[-1] ** -0.5
    logits = logits if heads.bias is None else logits + heads.bias
    return logits.softmax(-1).nan_to_num(0.0)


@settings(max_examples=40, deadline=None)
@given(heads=random_heads(), widest=st.sampled_from([5, 16, 256]))
def test_of_any_size_mask_and_block_it_is_softmax(heads: Heads, widest: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(heads_module, "WIDEST", widest)
        matrix = whole(heads)
        columns = torch.randn(len(heads.k), heads.k.shape[1], 21, dtype=torch.float64)
        torch.testing.assert_close(heads.mixed(columns)[0], matrix @ columns)
        rows = torch.cat([pattern for _, pattern in heads.rows(torch.arange(heads.q.shape[1]))], 1)
        torch.testing.assert_close(rows, matrix)
        alive = heads.valid.sum(-1)[:, None]
        torch.testing.assert_close(key_masses(heads), matrix.sum(1) / alive)
        plain, weighted = numbers(heads, Numbers())
    norms = torch.einsum("hme,hed->hmd", heads.v, heads.projection).norm(dim=-1)
    for head in range(len(heads.q)):
        of_head = matrix[head].numpy()
        if heads.bias is None or heads.bias.isinf().any():
            np.testing.assert_allclose(plain["entropy"][head], by_matrix.entropy(of_head), **CLOSE)
    compared = ("dt_0", "same_place_0", "same_place_1", "distance_x", "diagonal", "text")
    if heads.bias is not None and not heads.valid.all():
        return  # the share of even attention counts all queries
    for head in range(len(heads.q)):
        expected = by_matrix.of_video(matrix[head].numpy(), heads.grid)
        of_values = by_matrix.of_video(by_matrix.weighted(matrix[head].numpy(), norms[head].numpy()), heads.grid)
        for name in compared:
            np.testing.assert_allclose(plain[name][head], expected[name], **CLOSE, err_msg=name)
            np.testing.assert_allclose(weighted[name][head], of_values[name], **CLOSE, err_msg=name)


def test_entropy_under_an_additive_mask_and_without_a_fused_kernel(generator: torch.Generator) -> None:
    grid, (q, k, v) = TokenGrid(2, 2, 3), torch.randn(3, 2, 12, 8, generator=generator, dtype=torch.float64)
    for shape in ((1, 1, 12), (2, 12, 12)):
        heads = Heads(q, k, v, torch.randn(shape, generator=generator, dtype=torch.float64), grid)
        matrix = whole(heads)
        expected = -(matrix * matrix.log()).sum(-1).mean(-1) / np.log(12)
        torch.testing.assert_close(numbers(heads, Numbers())[0]["entropy"], expected)
        alone = heads_module._logsumexp(q, k, heads.bias, heads.scale)
        torch.testing.assert_close(alone, heads.logsumexp)


def test_no_matrix_is_held() -> None:
    """The largest tensor that any operation returns is far below n²."""
    grid, sizes = TokenGrid(4, 16, 16), list[int]()

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            tensors = [x for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, torch.Tensor)]
            sizes.extend(x.untyped_storage().nbytes() // x.itemsize for x in tensors)  # of a view, what it looks at
            return out

    q, k, v = torch.randn(3, 1, grid.tokens, 16)
    heads = Heads(q, k, v, None, grid, projection=torch.randn(1, 16, 32), block=2**14)
    with Watching():
        numbers(heads, Numbers(samples=8))
        attention.frames()(heads)
    assert 0 < max(sizes) <= 256 * grid.tokens < grid.tokens**2 / 3
    sizes.clear()
    with Watching():
        whole(heads)
    assert max(sizes) == grid.tokens**2


def test_bands_by_hand() -> None:
    """Two frames of two places; all mass on the same place in the other frame: only the temporal band keeps it."""
    grid, q = TokenGrid(2, 1, 2), torch.zeros(1, 4, 4)
    for query, key in ((0, 2), (1, 3), (2, 0), (3, 1)):
        q[0, query, key] = 200.0
    heads = Heads(q, torch.eye(4)[None], torch.eye(4)[None], None, grid)
    lost = band_errors(heads, 0.6, 99, 0)  # |i - j| < 1.2: beside it in the order
    torch.testing.assert_close(lost["temporal"], torch.zeros(1))
    assert float(lost["spatial"]) > 0.5


def test_an_object_and_its_motion_by_hand() -> None:
    """One object at column 0, then 1. Mass .1 on column 0 and .3 on column 1 of the next frame: .75 of a token."""
    grid, weights = TokenGrid(2, 1, 2), torch.full((4, 4), 0.25)
    weights[0] = torch.tensor([0.4, 0.2, 0.1, 0.3])
    heads = Heads(weights.log()[None] * 2, torch.eye(4)[None], torch.eye(4)[None], None, grid)  # 1/√4 halves logits
    tokens = torch.tensor([True, False, False, True])
    computed = object_numbers(heads, tokens, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(computed["object"], torch.tensor([[0.5, (0.4 / 0.6 + 0.5) / 2, 0.75]]))
    torch.testing.assert_close(computed["object_even"], torch.full((1, 3), 0.5))
    torch.testing.assert_close(computed["motion_error"], torch.tensor([0.25]))
    torch.testing.assert_close(computed["motion_error_still"], torch.tensor([1.0]))


def test_wrong_requests_say_what_to_do() -> None:
    lens = DiTLens(transformer=build("wan"), name="wan", verify=False)
    evaluation = laws.example(lens.model.members[0])
    cases: Mapping[str, Any] = {
        "expected of": lambda: attention.maps(lens, evaluation, attention.frames(), layer="cross_attn"),
        "no hook point": lambda: attention.atlas(lens, evaluation, layer="crossattn"),
        "got block 9 on an axis of 3": lambda: attention.atlas(lens, evaluation, blocks=[0, 9]),
        "on an axis of 2": lambda: attention.atlas(lens, evaluation, heads=[5]),
        "expected 32 truth values": lambda: attention.maps(
            lens, evaluation, attention.from_tokens(torch.ones(3, dtype=torch.bool))
        ),
        "got keys 'texts'": lambda: attention.maps(lens, evaluation, attention.to_tokens("texts")),
        "one or the other": lambda: attention.atlas(lens, evaluation, where=attention.Where(), heads=[0]),
        "expected 32 tokens": lambda: attention.atlas(
            lens, evaluation, objects=attention.Objects(torch.ones(3, dtype=torch.bool))
        ),
        "place words by hand": lambda: attention.words_of(lens, "a ball"),
    }
    for message, request in cases.items():
        with pytest.raises((ValueError, KeyError, TypeError)) as error:
            request()
        assert (message if message != "expected of" else "expected tokens of video") in str(error.value), message
