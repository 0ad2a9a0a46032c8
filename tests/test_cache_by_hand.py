"""Names, sizes and exact attributions of a cache on numbers small enough for paper; the model is the micro DiT."""

from __future__ import annotations

from collections.abc import Iterator
from math import atanh
from pathlib import Path

import micro_dit
import numpy as np
import pytest
import torch
from micro_dit import MicroDiT, set_by_hand
from test_micro_dit import RECIPIENT, SIGMA
from torch import Tensor

from dit_lens import DiTLens, families
from dit_lens.axes import TokenGrid
from dit_lens.cache import ActivationCache, CacheCost
from dit_lens.cache.anatomy import FinalLayer, HeadWrite, Norm, block_of, is_stream, layer_of, stream_of
from dit_lens.cache.decomposition import Frozen, head_readouts, head_writes, tokens_of, velocity_readout, write_of_heads
from dit_lens.cache.estimate import readable
from dit_lens.cache.names import full_name
from dit_lens.cache.split import Split, per_token

POINTS = ["*hook_resid_*", "*hook_*_out", "*hook_z", "*mod*"]


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def check(values: Tensor | np.ndarray, by_hand: list) -> None:
    np.testing.assert_allclose(np.asarray(values), by_hand, atol=1e-9, rtol=0)


# Names.


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("z", 3), "blocks.3.attn.hook_z"),
        (("rot_k", -1), "blocks.5.attn.hook_rot_k"),
        (("z", 0, "cross_attn"), "blocks.0.cross_attn.hook_z"),
        (("post", 5), "blocks.5.mlp.hook_post"),
        (("gate_attn", 1), "blocks.1.mod.hook_gate_attn"),
        (("shift_mlp", -6), "blocks.0.mod.hook_shift_mlp"),
        (("scale_mlp", 2), "blocks.2.mod.hook_scale_mlp"),
        (("resid_post", 2), "blocks.2.hook_resid_post"),
        ("hook_embed", "hook_embed"),
    ],
)
def test_full_names(key: tuple, name: str) -> None:
    assert full_name(key, 6) == name


@pytest.mark.parametrize("block", [6, -7])
def test_blocks_that_are_not_there(block: int) -> None:
    with pytest.raises(KeyError, match=rf"got block {block} · expected -6 to 5"):
        full_name(("z", block), 6)


def test_parts_of_names() -> None:
    assert is_stream("blocks.3.text.hook_resid_pre") and not is_stream("blocks.3.hook_attn_out")
    assert not is_stream("hook_resid_.hook_z") and block_of("blocks.13.hook_attn_out") == 13
    assert stream_of("blocks.3.text.hook_resid_pre") == "text" and stream_of("blocks.3.hook_mlp_out") == ""
    assert stream_of("blocks.3.a.b.hook_z") == "a.b"
    assert layer_of("blocks.3.text.hook_cross_attn_out") == "cross_attn"


# Sizes.


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1536, "1.54 kB"), (2_500_000, "2.5 MB"), (10**9, "1 GB"),
     (3 * 10**12, "3 TB"), (5 * 10**15, "5e+03 TB")],
)  # fmt: skip
def test_bytes_as_people_say_them(count: int, text: str) -> None:
    assert readable(count) == text


def test_an_estimate_by_hand() -> None:
    estimate = CacheCost({"z": (4000, 10), "q": (1000, 200)}, 0.25, clips=3, steps=2, reduced=True)
    assert (estimate.whole_bytes, estimate.kept_bytes, estimate.seconds) == (30000, 1260, 1.5)
    assert str(estimate) == ("2 points x 3 clips x 2 steps: 1.26 kB reduced, of 30 kB (largest q, 1.2 kB), about 1.5 s")
    whole = CacheCost({"z": (4000, 4000)}, 0.25, clips=1, steps=1, reduced=False)
    assert str(whole) == "1 points x 1 clips x 1 steps: 4 kB (largest z, 4 kB), about 0.25 s"


# Exact attribution. Along a, in the mean of two tokens: what is embedded (1 + 3) / 2; block 0: head 1 -.25 * .2, the
# bias .1 * .2, the MLP (2.4 + 0) / 2 * .5; block 1: head 1 1.48875 * .5, the bias .1 * .5, the MLP 3.0775 * .4.


@pytest.fixture(scope="module")
def cache() -> Iterator[ActivationCache]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(families, "FAMILIES", (micro_dit.FAMILY, *families.FAMILIES))
        lens = DiTLens(transformer=set_by_hand(MicroDiT()), verify=False)
        yield lens.run_with_cache(latent=RECIPIENT, timestep=SIGMA, names_filter=POINTS)[1]


def test_what_a_readout_is_made_of(cache: ActivationCache) -> None:
    table = cache.attribute_to(double([1.0, 0.0, 0.0]))
    assert table.component.values.tolist() == ["attn.0", "attn.1", "attn.bias", "mlp"]
    check(table.attribution[0], [[0, -0.05, 0.02, 0.6], [0, 0.744375, 0.05, 1.231]])
    check(table.embedding, [2.0])
    check(table.readout, [4.595375])  # (4.438375 + 4.752375) / 2
    check(table.unexplained, [0.0])
    check(table.constant, [0.0])
    assert table["layer"].values.tolist() == ["attn", "attn", "attn", "mlp"]
    assert table["head"].values.tolist() == [0, 1, -1, -1] and table.attrs["point"] == "blocks.1.hook_resid_post"
    assert table.attribution.dims == ("clip", "block", "component") and table.block.values.tolist() == [0, 1]


def test_what_a_readout_is_made_of_frame_by_frame(cache: ActivationCache) -> None:
    # the direction of frame 0 reads a, that of frame 1 reads b: head 0 writes b, 2 * .2 and 2.57 * .5; MLP: 1.474 to a,
    # 3.57 * .5 and .51775 to b
    table = cache.attribute_to(double([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), pool=False)
    assert table.attribution.dims == ("clip", "block", "component", "frame", "row", "column")
    by_hand = [
        [[0, 0.4], [-0.05, 0], [0.02, 0], [1.2, 1.785]],
        [[0, 1.285], [0.744375, 0], [0.05, 0], [1.474, 0.51775]],
    ]
    check(table.attribution[0, ..., 0, 0], by_hand)
    check(table.embedding[0, :, 0, 0], [1.0, -1.0])
    check(table.readout, [4.438375 + 2.98775])
    early = cache.attribute_to(double([0.0, 1.0, 0.0]), ("resid_mid_attn", 0))
    check(early.attribution[0, 0], [0.4, 0.0, 0.0])  # one's own block's MLP comes later
    check(early.readout, [(2.4 - 0.6) / 2])
    write = cache.attribute_to(double([1.0, 0.0, 0.0]), ("attn_out", 1))
    check(write.attribution[0, 0], [0.0, 0.744375, 0.05])
    check(write.embedding, [0.0])
    with pytest.raises(KeyError, match=r"got 'blocks.1.attn.hook_z', which is no sum"):
        cache.attribute_to(double([1.0, 0.0, 0.0]), ("z", 1))


def test_stacks(cache: ActivationCache) -> None:
    values, names = cache.decompose_resid()
    assert names == ("embed", "0_attn_out", "0_mlp_out", "1_attn_out", "1_mlp_out")
    check(values[:, 0, 1], [[3, -1, 1], [-0.03, 0.4, 0], [0, 1.785, 0], [0.794375, 1.285, 0], [0.988, 0.51775, 0]])
    assert cache.decompose_resid(("resid_pre", 1)).labels == ("embed", "0_attn_out", "0_mlp_out")
    heads, names = cache.stack_head_results()
    assert names == ("L0H0", "L0H1", "L1H0", "L1H1")
    check(heads[:, 0, 0], [[0, 0.4, 0], [-0.05, 0, 0], [0, 1.285, 0], [0.744375, 0, 0]])
    along, _ = cache.stack_head_results(project=double([2.0, 1.0, 0.0]), point=("resid_mid_attn", 1))
    check(along[:, 0, 0], [0.4, -0.1, 1.285, 1.48875])
    assert cache.stack_head_results(point=("resid_pre", 1)).labels == ("L0H0", "L0H1")
    grown, names = cache.accumulated_resid()
    assert names == ("0_pre", "0_mid_attn", "1_pre", "1_mid_attn", "1_post")
    check(grown[:, 0, 1, 0], [3, 2.97, 2.97, 3.764375, 4.752375])
    assert cache.accumulated_resid(mid=False).labels == ("0_pre", "1_pre", "1_post")
    assert cache.accumulated_resid(("resid_mid_attn", 0), mid=False).labels == ("0_pre", "0_mid_attn")
    with pytest.raises(KeyError, match=r"expected a stream, blocks"):
        cache.accumulated_resid(("attn_out", 0))
    with pytest.raises(
        KeyError, match=r"^.got layer 'cross_attn' · expected an attention that writes to 'blocks.1.hook"
    ):
        cache.stack_head_results("cross_attn")


# The cache itself: 2 steps of 3 clips, or 3 clips alone, of two tokens; values are counted up.


def counted(steps: tuple[int, ...] | None) -> ActivationCache:
    x = torch.arange(6.0).reshape(3, 2, 1) if steps is None else torch.arange(12.0).reshape(2, 3, 2, 1)
    names = ("blocks.0.attn.hook_z", "blocks.1.attn.hook_z")
    tensors = {names[0]: x, names[1]: 100 + x.double()}
    return ActivationCache(tensors, TokenGrid(1, 1, 2), 2, steps, dict.fromkeys(names, "b n d"))


def test_a_cache_by_hand() -> None:
    plain, several = counted(None), counted((4, 7))
    assert plain[1:]["z", 0].flatten().tolist() == [2, 3, 4, 5] and len(plain) == 2 and [*plain] == [*plain.tensors]
    assert several[2:]["z", 0].flatten().tolist() == [4, 5, 10, 11] and several[:1].steps == (4, 7)
    assert plain.grid("z", 0).shape == (3, 1, 1, 2, 1) and several.grid("z", 1).shape == (2, 3, 1, 1, 2, 1)
    assert several.grid("z", 0)[1, 2, 0, 0, :, 0].tolist() == [10, 11]
    stacked = plain.stack_activation("z")
    assert stacked.dtype == torch.float64 and stacked[1, 2, 0, 0] == 104 and stacked.shape == (2, 3, 2, 1)
    assert several.stack_activation("z").shape == (2, 2, 3, 2, 1)
    assert repr(plain).splitlines() == [
        "ActivationCache of 2 points, steps None",
        "  blocks.0.attn.hook_z: (3, 2, 1) torch.float32",
        "  blocks.1.attn.hook_z: (3, 2, 1) torch.float64",
    ]
    with pytest.raises(
        KeyError, match=r"^.got 'blocks.0.attn.hook_q' · expected one of the 2 cached points; did you mean"
    ):
        plain["q", 0]
    taken = ActivationCache({"a": torch.zeros(3, 1), "b": torch.zeros(2, 1)}, TokenGrid(1, 1, 1), 1)
    with pytest.raises(ValueError, match=r"^got activations of \[2, 3\] clips · expected as many of each"):
        taken[:1]


def test_a_cache_cast_and_moved() -> None:
    mixed = ActivationCache({"x": torch.ones(1), "n": torch.ones(1, dtype=torch.int64)}, TokenGrid(1, 1, 1), 1)
    half = mixed.to(torch.float16)
    assert (half["x"].dtype, half["n"].dtype) == (torch.float16, torch.int64)
    assert {x.device.type for x in mixed.to("meta").values()} == {"meta"}


@pytest.mark.parametrize("steps", [None, (4, 7)])
def test_a_cache_on_disk(steps: tuple[int, ...] | None, tmp_path: Path) -> None:
    cache = counted(steps)
    assert cache.save(tmp_path / "c.h5") == tmp_path / "c.h5"
    opened = ActivationCache.open(str(tmp_path / "c.h5"))
    assert (opened.steps, opened.blocks, opened.grid_shape, opened.axes) == (steps, 2, TokenGrid(1, 1, 2), cache.axes)
    assert [*opened] == [*cache] and all(torch.equal(opened[name], x) for name, x in cache.items())
    assert {name: x.dtype for name, x in opened.items()} == {name: x.dtype for name, x in cache.items()}
    with pytest.raises(ValueError, match=r"^got a cache without weights · "):
        opened.decompose_resid()


# The parts of it. One token, two heads of width 1, model width 2: W = [[1, 2], [3, 4]], bias (10, 20).

WEIGHT, BIAS = double([[1.0, 2.0], [3.0, 4.0]]), double([10.0, 20.0])
Z = double([5.0, 7.0]).reshape(1, 1, 2, 1)


def write(gate: str | None = None, raw: str | None = None, epsilon: float = 0.0, weight: Tensor = WEIGHT) -> HeadWrite:
    return HeadWrite({"": "z"}, gate, raw, epsilon, weight, BIAS)


def test_heads_write_their_slice_of_the_projection() -> None:
    # head 0: 5 (1, 3), head 1: 7 (2, 4); with the bias 19 + 10, 43 + 20
    check(head_writes({"z": Z}, write())[0, 0], [[5, 15], [14, 28]])
    check(write_of_heads({"z": Z}, write())[0, 0], [29, 63])
    # along (1, -1): 5 - 15, 14 - 28, and 10 - 20 by the bias
    by_source, bias = head_readouts({"z": Z}, write(), double([1.0, -1.0]))
    check(by_source[""][0, 0], [-10, -14])
    check(bias[0], [-10])


def test_gates_multiply_all_of_it() -> None:
    gated = {"z": Z, "gate": double([[2.0, 0.5]])}
    check(head_writes(gated, write("gate"))[0, 0], [[10, 7.5], [28, 14]])
    check(write_of_heads(gated, write("gate"))[0, 0], [58, 31.5])
    by_source, bias = head_readouts(gated, write("gate"), double([1.0, -1.0]))
    check(by_source[""][0, 0], [10 - 7.5, 28 - 14])
    check(bias[0], [20 - 10])
    # by token: the same gate with a token axis
    check(write_of_heads({"z": Z, "gate": double([[[2.0, 0.5]]])}, write("gate"))[0, 0], [58, 31.5])


def test_a_norm_before_the_gate_is_frozen() -> None:
    # tanh of the gate: .5, 1/4; raw (1, 7) has the mean square 25, 24 and 1 more make 5
    cache = {"z": Z, "gate": double([[atanh(0.5), atanh(0.25)]]), "raw": double([[[1.0, 47**0.5]]])}
    check(write_of_heads(cache, write("gate", "raw", epsilon=1.0))[0, 0], [29 * 0.5 / 5, 63 * 0.25 / 5])
    assert write("gate", "raw").needs == ["z", "gate", "raw"] and write().needs == ["z"]


def test_of_a_wider_projection_the_bias_belongs_to_the_mlp() -> None:
    wide = write(weight=torch.cat([WEIGHT, double([[100.0], [100.0]])], 1))
    check(write_of_heads({"z": Z}, wide)[0, 0], [19, 43])
    check(head_readouts({"z": Z}, wide, double([1.0, -1.0]))[1][0], [0])
    with pytest.raises(ValueError, match=r"^got z of shape \(1, 1, 3, 1\) for a projection of width 2 · "):
        head_writes({"z": torch.ones(1, 1, 3, 1)}, write())
    with pytest.raises(ValueError, match=r"^got z of shape \(1, 2, 1\) for a projection"):
        head_writes({"z": torch.ones(1, 2, 1)}, write())


# The last layer at the stream (1, 3): mean 2, variance 1. With epsilon 3 its norm divides by 2: (-.5, .5).

STREAM = double([1.0, 3.0]).reshape(1, 1, 2)


def last(weight: Tensor | None, bias: Tensor | None, *more: Norm) -> Frozen:
    layer = FinalLayer((Norm(weight, bias, 3.0), *more), WEIGHT, BIAS, "p q r c", (1, 1, 1))
    cache = {"x": STREAM, "final.mod.hook_shift": double([[10.0, 20.0]]), "final.mod.hook_scale": double([[0.5, 0.0]])}
    return Frozen.of(cache, layer, "x")


def test_a_plain_norm_frozen() -> None:
    plain = last(None, None)
    check(plain.scales[0], [[[0.5]]])
    check(plain.part(STREAM)[0, 0], [-0.5 * 1.5, 0.5])
    check(plain.part(torch.stack([STREAM, 2 * STREAM]), 0)[1, 0, 0], [-1.5, 1.0])
    check(plain.constant()[0, 0], [10, 20])
    # (1, 1) is 1.5, 1 before the scale; half of it without its mean is (.125, -.125)
    check(plain.toward(double([[[1.0, 1.0]]]))[0, 0], [0.125, -0.125])


def test_a_norm_with_weight_and_bias_frozen() -> None:
    affine = last(double([2.0, 4.0]), double([1.0, -1.0]))
    check(affine.part(STREAM)[0, 0], [-1.0 * 1.5, 2.0])
    check(affine.constant()[0, 0], [1 * 1.5 + 10, -1 + 20])
    # (1.5, 1) by half of (2, 4) is (1.5, 2), without its mean (-.25, .25)
    check(affine.toward(double([[[1.0, 1.0]]]))[0, 0], [-0.25, 0.25])


def test_two_norms_frozen() -> None:
    # the first makes (-.5, .5) (2, 4) + (1, -1) = (0, 1): mean .5, variance .25, and .75 more make 1
    both = last(double([2.0, 4.0]), double([1.0, -1.0]), Norm(None, None, 0.75))
    check(both.scales[1], [[[1.0]]])
    # parts: (-1, 2) less its mean .5; constant (1, -1) less its mean 0
    check(both.part(STREAM)[0, 0], [-1.5 * 1.5, 1.5])
    check(both.constant()[0, 0], [1.5 + 10, -1 + 20])
    # (1.5, 1) less its mean (.25, -.25), by half of (2, 4): (.25, -.5), less its mean -.125
    check(both.toward(double([[[1.0, 1.0]]]))[0, 0], [0.375, -0.375])


def test_a_velocity_is_a_readout_of_the_stream() -> None:
    """velocity = offset + slope · (W y + bias), y what the last layer makes of the stream."""
    plain = last(None, None)
    cache = {"final.hook_slope": double([2.0]), "final.hook_offset": double([3.0, 5.0]).reshape(1, 2, 1, 1, 1)}
    toward, constant = velocity_readout(cache, plain, double([1.0, -1.0]).reshape(1, 2, 1, 1, 1))
    # 2 (1, -1) W = (-4, -4); (-6, -4) half, less its mean: (-.5, .5)
    check(toward[0, 0], [-0.5, 0.5])
    # 3 - 5, (-4, -4) (10, 20), 2 (10 - 20)
    check(constant, [-2 - 120 - 20])
    # whole: y = (9.25, 20.5), W y + bias = (60.25, 129.75); 3 + 120.5 - 5 - 259.5
    check((toward * STREAM).sum((-1, -2)) + constant, [123.5 - 264.5])


def test_directions_as_tokens_are_put_out() -> None:
    layer = FinalLayer((), WEIGHT, None, "c p q r", (1, 1, 2))
    direction = torch.arange(8.0).reshape(2, 1, 1, 4)  # (c, f, h, w): tokens are pairs of columns
    check(tokens_of(direction, layer), [[0, 1, 4, 5], [2, 3, 6, 7]])


def test_a_direction_is_shared_out_among_tokens() -> None:
    stream = torch.zeros(1, 4, 2, dtype=torch.float64)
    check(per_token(double([4.0, 8.0]), stream), [[1, 2]] * 4)
    check(per_token(double([[4.0, 8.0], [2.0, 6.0]]), stream), [[2, 4], [2, 4], [1, 3], [1, 3]])
    for weight in (double([1.0]), torch.zeros(3, 2)):
        with pytest.raises(
            ValueError, match=rf"^got a direction of \({weight.shape[0]},.*expected \(2,\), or .* 4 tokens"
        ):
            per_token(weight, stream)


def test_a_table_of_a_split() -> None:
    parts = {(1, "mlp"): double([[1.0, 2.0]]), (0, "attn.3"): double([[3.0, 4.0]]), (0, "mlp"): double([[5.0, 6.0]])}
    split = Split(double([30.0]), double(0.5), double([[7.0, 1.0]]), parts)  # type: ignore[arg-type]
    table = split.pooled().dataset(None)
    assert table.component.values.tolist() == ["mlp", "attn.3"] and table.block.values.tolist() == [0, 1]
    check(table.attribution, [[[11, 7], [3, 0]]])
    check(table.unexplained, [30 - (0.5 + 8 + 21)])
    check(table.constant, [0.5])
    assert table["head"].values.tolist() == [-1, 3] and table["layer"].values.tolist() == ["mlp", "attn"]
    placed = split.dataset(None, TokenGrid(1, 1, 2))
    check(placed.attribution[0, 0, 0, 0, 0], [5, 6])
    check(placed.embedding[0, 0, 0], [7, 1])
    steps = Split(double([[30.0]]), double(0.5), double([[[7.0]]]), {(0, "mlp"): double([[[1.0]]])})  # type: ignore[arg-type]
    assert steps.dataset((4,)).step.values.tolist() == [4] and steps.dataset((4,)).readout.dims == ("step", "clip")
