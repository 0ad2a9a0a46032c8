"""Names, grids, tensors on disk, scenes and solvers: what floors 1 and 2 give, on the smallest examples."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from dit_lens import flow, results, stats, tensor_file
from dit_lens.axes import TokenGrid
from dit_lens.choices import nearest
from dit_lens.clips import Clip, Scene, Track, block_means, breaks_between, clip_ids, frame_distances, stack_frames
from dit_lens.flow import Solver, Step
from dit_lens.hook_points import HookPoint, Site, Table
from dit_lens.video import psnr, to_tensor

# Names.


def test_a_name_is_near_where_half_of_it_is_alike() -> None:
    # of "abcd" and "abxy" 2 * 2 of 8 letters match, which is .5; of "abcde" and "abxyz" .4
    assert nearest("abcd", ["zzzz", "abxy"]) == "; did you mean 'abxy'?"
    assert nearest("abcde", ["abxyz"]) == "" and nearest("abcd", ["abxy", "abcx"]) == "; did you mean 'abcx'?"


def point(name: str, on_demand: bool = False) -> HookPoint:
    return HookPoint(name, "b n d", (Site("x", "output"),), lambda raw: raw, None, on_demand)


def test_points_on_demand_are_asked_for_by_their_last_word() -> None:
    pattern = point("blocks.0.attn.hook_pattern", on_demand=True)
    assert pattern.matches("*hook_pattern") and pattern.matches("*pattern")
    assert not pattern.matches("*") and not pattern.matches("blocks.0.attn.hook_*") and not pattern.matches("*result")
    assert not point("blocks.0.cross_attn.hook_pattern", on_demand=True).matches("blocks.0.cross_attn.hook_*")
    assert point("blocks.0.attn.hook_z").matches("*") and not point("blocks.0.attn.hook_z").matches("*.hook_q")


def test_places_in_words() -> None:
    assert str(Site("blocks.3.attn1", "input")) == "blocks.3.attn1: input"
    assert str(Site("blocks.3", "local", "hidden_states")) == "blocks.3: local hidden_states"
    assert str(Site("", "output")) == "the transformer: output"


def test_a_table_without_more() -> None:
    embed, resid_pre = point("hook_embed"), point("blocks.0.hook_resid_pre", on_demand=True)
    table = Table((), {embed.name: embed, resid_pre.name: resid_pre}, ("blocks.0",))
    assert table.entering(2) == ["blocks.2.hook_resid_pre"]
    assert table.select("blocks.0.hook_resid_pre", "model") == [resid_pre] and table.select("*", "model") == [embed]
    assert (
        table.select([resid_pre.name, "*"], "model") == [embed, resid_pre] == table.select(lambda name: True, "model")
    )
    with pytest.raises(KeyError, match=r"got a predicate that no hook point of model meets"):
        table.select(lambda name: False, "model")
    with pytest.raises(KeyError, match=r"no hook point 'hook_embd' in model; did you mean 'hook_embed'"):
        table.select("hook_embd", "model")
    streams = Table((), {}, (), streams=("hook_resid_pre", "text.hook_resid_pre"))
    assert streams.entering(0) == ["blocks.0.hook_resid_pre", "blocks.0.text.hook_resid_pre"]


def test_a_grid_of_two_frames_by_hand() -> None:
    grid = TokenGrid(2, 1, 3)
    assert grid.tokens == 6 and grid.unflatten(torch.arange(6.0)[None]).tolist() == [[[[0, 1, 2]], [[3, 4, 5]]]]
    assert grid.mask([0, 1], 0, 2).tolist() == [False, False, True, False, False, True]
    assert grid.mask(1).tolist() == [False] * 3 + [True] * 3 and grid.mask().dtype == torch.bool


# Videos.


def test_levels_by_hand() -> None:
    frames = np.array([[[[0, 51, 255]]]], dtype=np.uint8)
    torch.testing.assert_close(to_tensor(frames).flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    # mean square 4 is as large as the square of the range, 2; a tenth of the range is 20 dB
    assert psnr(torch.tensor([2.0]), torch.tensor([0.0])).item() == 0
    assert psnr(torch.tensor([0.5]), torch.tensor([0.3])).item() == pytest.approx(20)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 2, 2, 3)), r"^got float64 of shape \(1, 2, 2, 3\) · .* from floats in \[0, 1\]: \(255"),
        (np.zeros((1, 3, 2, 2), np.uint8), r"^got uint8 of shape \(1, 3, 2, 2\) · .* put the channels last"),
        (np.zeros((2, 2, 3), np.uint8), "got uint8 of shape"),
        (np.zeros((1, 1, 1, 2, 2, 3), np.uint8), "got uint8 of shape"),
    ],
)
def test_frames_that_are_none(frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_tensor(frames)
    assert to_tensor(np.zeros((2, 1, 2, 2, 3), np.uint8)).shape == (2, 3, 1, 2, 2)


# Tensors in files.


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_a_tensor_is_its_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.tensor([[1.5, -2.0], [0.0, 3.0]]).to(dtype).T
    kept, facts = tensor_file.read(
        tensor_file.write(tmp_path / "x.h5", "kind", {"a/b": x, "c": x[0, 0]}, {"n": 1}), "kind"
    )
    assert facts == {"n": 1} and set(kept) == {"a/b", "c"} and kept["a/b"].dtype == dtype
    assert torch.equal(kept["a/b"], x) and torch.equal(kept["c"], x[0, 0])
    name = str(dtype).removeprefix("torch.")
    assert torch.equal(tensor_file.to_tensor(tensor_file.to_bits(x), name), x)
    assert tensor_file.to_floats(tensor_file.to_bits(x), name).tolist() == x.tolist()


def test_bits_of_bfloat16_by_hand() -> None:
    # 1 is 0x3f80, -2 is 0xc000
    bits = tensor_file.to_bits(torch.tensor([1.0, -2.0]).bfloat16())
    assert bits.dtype == np.uint16 and bits.tolist() == [0x3F80, 0xC000]
    floats = tensor_file.to_floats(bits, "bfloat16")
    assert floats.dtype == np.float32 and floats.tolist() == [1, -2]
    plain = torch.zeros(3)
    assert np.shares_memory(tensor_file.to_bits(plain), plain.numpy())
    assert tensor_file.to_bits(torch.zeros(2, requires_grad=True)).tolist() == [0, 0]


def test_every_chunk_has_a_checksum(tmp_path: Path) -> None:
    tensors = {"x": torch.ones(3), "none": torch.zeros(0), "one": torch.tensor(1.0)}
    with h5py.File(tensor_file.write(tmp_path / "x.h5", "kind", tensors, {}), "r") as file:
        assert [file[name].fletcher32 for name in tensors] == [True, False, False]
        assert file.attrs["kind"] == "kind" and file["x"].attrs["dtype"] == "float32"


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(FileNotFoundError, match=rf"^got {path} · expected a kind file"):
        tensor_file.read(path, "kind")
    tensor_file.write(path, "other", {}, {})
    with pytest.raises(
        ValueError, match=rf"^got {path}, which cannot be read \(its kind is 'other'\) · expected a kind"
    ):
        tensor_file.read(path, "kind")
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"^got {path}, which cannot be read"):
        tensor_file.read(path, "kind")


# Results.


def test_one_text_of_a_value() -> None:
    assert results.canonical({"b": [1, None], "a": "ü", "p": Path("x")}) == '{"a":"ü","b":[1,null],"p":"x"}'


def test_what_a_result_comes_with(tmp_path: Path) -> None:
    facts = json.loads(results.provenance(model="m", path=Path("x"), threads=-1))
    assert facts["model"] == "m" and facts["path"] == "x" and facts["threads"] == -1  # facts win over what is known
    assert set(facts) == {"model", "path", "command", "versions", "commit", "threads", "deterministic"}
    assert set(facts["versions"]) == {*results.PACKAGES, "python"} and facts["deterministic"] is False
    assert results._version("no-such-package") == "not installed"
    result = xr.Dataset({"x": 1}, attrs={"provenance": results.provenance(n=3)})
    path = results.save(result, tmp_path / "deep" / "x.nc")
    assert path == tmp_path / "deep" / "x.nc" and results.facts(results.open_result(path))["n"] == 3
    results.save(result.drop_attrs(), path)
    with pytest.raises(ValueError, match=rf"^got {path} without provenance · "):
        results.open_result(path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match=rf"^got {path}, which cannot be read \(.+\) · "):
        results.open_result(path)
    with pytest.raises(FileNotFoundError, match=rf"^got {tmp_path / 'y.nc'} · "):
        results.open_result(tmp_path / "y.nc")


def test_what_a_module_imports() -> None:
    imported = results.closure("dit_lens.stats")
    stats = ("choosing", "contrasts", "intervals", "nulls", "separation")
    assert set(imported) == {
        "dit_lens",
        "dit_lens.stats",
        "dit_lens.choices",
        *(f"dit_lens.stats.{name}" for name in stats),
    }
    assert set(results.closure("dit_lens.edits")) >= {"dit_lens.edits.changes", "dit_lens.hook_points", "dit_lens.axes"}
    assert results.closure("numpy") == {} == results.closure("dit_lens.nothing")
    digest = results.code_digest("dit_lens.stats")
    assert len(digest) == 16 and digest == results.code_digest("dit_lens.stats") != results.code_digest("dit_lens.axes")


# Scenes.


def clip(role: str, frames: Sequence[int], side: int = 1) -> Clip:
    """Frames of one grey each."""
    pictures = np.array(frames, np.uint8)[:, None, None, None].repeat(side, 1).repeat(side, 2).repeat(3, 3)
    return Clip(f"s/{role}", pictures, role in "AB", "s", role, "solidity")


A, B = clip("A", [1, 1, 1, 1]), clip("B", [2, 2, 2, 2])
C, D = clip("C", [1, 1, 2, 2]), clip("D", [2, 2, 1, 1])


def test_where_clips_part_and_meet() -> None:
    assert breaks_between(A.frames, C.frames) == (2,) and breaks_between(A.frames, A.frames) == ()
    assert breaks_between(A.frames, clip("X", [9, 1, 9, 1]).frames) == (0, 1, 2, 3)
    assert breaks_between(A.frames, C.frames, tolerance=1.0) == () and breaks_between(A.frames, C.frames, 0.9) == (2,)
    with pytest.raises(ValueError, match=r"^got clips of shapes \(4, 1, 1, 3\) and \(1, 1, 1, 3\)"):
        breaks_between(A.frames, A.frames[:1])


def test_means_over_squares() -> None:
    picture = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1).repeat(3, 3)
    # 0 1 | 2; 3 4 | 5; 6 7 | 8: means of 2 x 2, 2 x 1, 1 x 2 and 1
    assert block_means(picture, 2)[0, ..., 0].tolist() == [[2, 3.5], [6.5, 8]]
    assert block_means(np.zeros((1, 17, 8, 3), np.uint8)).shape == (1, 3, 1, 3)
    assert frame_distances(A.frames, C.frames).tolist() == [0, 0, 1, 1]


def test_pairs_of_a_crossed_scene() -> None:
    scene = Scene("s", (A, B, C, D), ((0, 2), (1, 3)), ((2,), (2,)), True)
    for pairs, roles, shares, differ in (
        (scene.pairs(), "AC BD", "first", (2, 3)),
        (scene.pairs("first"), "AC BD", "first", (2, 3)),
        (scene.pairs("second"), "AD BC", "second", (0, 1)),
    ):
        assert " ".join(p.possible.role + p.impossible.role for p in pairs) == roles
        assert all(p.shares == shares and (p.first_difference, p.last_difference) == differ for p in pairs)
    twice = Scene("s", (A, B, C, D), ((0, 2), (1, 3)), ((2, 3), (2,)))
    assert [pair.shares for pair in twice.pairs()] == [None, None]
    assert scene.splices == (2, 2, 2, 2) and scene.splice == 2 and scene.property == "solidity"
    assert (
        scene["C"] is C and scene.roles == (*"ABCD",) and scene.group == "s" and Scene("s", (A,), unit="u").group == "u"
    )
    early = Scene("s", (A, B, C, D), ((0, 2), (1, 3), (0, 3)), ((3,), (2,), (1,)))
    assert early.splices == (1, 2, 3, 1) and early.splice == 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: Scene("s", (A, C), ((0, 1),), ((2,), (3,))), "^got 2 breaks of 1 matches"),
        (lambda: Scene("s", (A, C), ((0, 1),), ((2, 2),)), r"^got breaks \(2, 2\) in s · expected rising frames"),
        (lambda: Scene("s", (A, C), ((0, 1),), ((0,),)).splices, "^got s, whose clips share no first frames"),
        (lambda: Scene("s", (A, C, B), ((0, 1),), ((2,),)).splices, "^got s, whose clips share no first frames"),
        (lambda: Scene("s", (A, C), ((0, 1),)).pairs("third"), "^got shares='third' · expected 'first' or 'second'"),  # type: ignore[arg-type]
        (lambda: Scene("s", (A, C), ((0, 1),)).pairs("first"), r"^got s with roles A, C · expected a quadruplet"),
        (lambda: Scene("s", (A, A), ((0, 1),)).pairs(), "^got s/A and s/A, which are the same frames"),
    ],
)
def test_scenes_that_are_none(function: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function()  # type: ignore[operator]
    with pytest.raises(KeyError, match=r"got role 'E' of s · expected one of A, C"):
        Scene("s", (A, C))["E"]


def test_tracks_are_spliced_where_clips_are() -> None:
    def track(value: float) -> Track:
        numbers, words = np.full(3, value), np.full(3, str(value))
        return Track(np.full((3, 2), value), np.full((3, 2), -value), numbers > 1, numbers > 5, numbers, words, words)

    both = track(1).splice(track(2), 2)
    assert both.position[:, 0].tolist() == [1, 1, 2] and both.velocity[:, 1].tolist() == [-1, -1, -2]
    assert both.present.tolist() == [False, False, True] and both.shape.tolist() == ["1", "1", "2"]


def test_frames_and_ids_of_clips() -> None:
    assert stack_frames(A).shape == (1, 4, 1, 1, 3) and stack_frames([A, C]).shape == (2, 4, 1, 1, 3)
    assert stack_frames(A.frames).shape == (1, 4, 1, 1, 3) and stack_frames(A.frames[None]).shape == (1, 4, 1, 1, 3)
    assert clip_ids(A) == ("s/A",) and clip_ids([A, C]) == ("s/A", "s/C") and clip_ids(A.frames) == ("0",)
    assert clip_ids(torch.zeros(2, 3, 4, 5, 6)) == ("0", "1")
    for clips, description in (([], "an empty list"), ([A.frames], "a list of ndarray")):
        with pytest.raises(TypeError, match=rf"^got {description} · expected clips"):
            stack_frames(clips)  # type: ignore[arg-type]


# Solvers, of dx/dsigma = x from x = 2 at 0 to 1/2: h = 1/2.


@pytest.mark.parametrize(
    ("solver", "by_hand", "levels"),
    [
        ("euler", 2 + 0.5 * 2, (0.0,)),
        (Solver("euler", "target"), 2 + 0.5 * 2, (0.5,)),
        ("midpoint", 2 + 0.5 * (2 + 0.25 * 2), (0.0, 0.25)),
        ("heun", 2 + 0.25 * (2 + 3), (0.0, 0.5)),
        ("fireflow", 2 + 0.5 * (2 + 0.25 * 2), (0.0, 0.25)),
    ],
)
def test_a_step_of_each_solver(solver: str | Solver, by_hand: float, levels: tuple[float, ...]) -> None:
    start = torch.full((1, 1, 1, 1, 1), 2.0)
    first, step = flow.integrate(lambda x, sigma: x, start, [0.0, 0.5], solver)
    assert first.x is start and first.levels == () and first.evaluations == 0
    assert step.x.item() == by_hand and step.levels == levels and step.evaluations == len(levels)
    assert step.residual is None and step.converged is None


def test_an_implicit_step() -> None:
    # y = 2 + y / 2 is 4
    start = torch.full((1, 1, 1, 1, 1), 2.0)
    *_, step = flow.integrate(lambda x, sigma: x, start, [0.0, 0.5], "implicit_euler")
    assert step.x.item() == pytest.approx(4, rel=1e-5) and step.converged is not None and step.converged.all()
    alone = next(flow.implicit_euler(lambda x, sigma: x, start, [0.0, 0.5]))
    assert alone.residual is not None and alone.residual <= 1e-6 and alone.x.item() == step.x.item()
    once = Solver("implicit_euler", iterations=1)
    *_, step = flow.integrate(lambda x, sigma: x, start, [0.0, 0.5], once)
    assert step.x.item() == 2 and step.residual is not None and step.converged is not None
    assert step.residual.item() == 0.5 and not step.converged.any()  # |3 - 2| / |2|
    kept = step.without_latent()
    assert kept.x.shape == (1, 0, 1, 1, 1) and kept.levels == step.levels and kept.residual is step.residual


def test_solvers_in_words() -> None:
    assert [str(Solver(name)) for name in ("heun", "euler")] == ["heun", "euler"] and str(Solver()) == "heun"
    assert str(Solver("euler", "target", 0.025)) == "euler, target time, sigma_min 0.025"
    assert Solver.of("euler") == Solver("euler") and Solver.of(Solver("heun", sigma_min=0.1)).sigma_min == 0.1
    assert Solver("implicit_euler", sigma_min=0.1).sampler == Solver("euler", sigma_min=0.1)
    assert Solver("euler", "target").sampler == Solver("euler") and Solver("midpoint").sampler == Solver("midpoint")
    assert Step(torch.zeros(2, 3, 1, 1, 1)).without_latent().x.shape == (2, 0, 1, 1, 1)
    with pytest.raises(ValueError, match=r"^got time_at='target' for heun · "):
        Solver("heun", "target")


def test_the_step_that_fails_is_named() -> None:
    start = torch.zeros(1, 1, 1, 1, 1)
    path = flow.integrate(lambda x, sigma: x + (np.inf if sigma > 0.2 else 0), start, [0.0, 0.25, 0.5], "euler")
    next(path), next(path)
    with pytest.raises(
        FloatingPointError, match=r"^got a latent that is not finite in step 1 \(sigma 0.2500 to 0.5000\)"
    ):
        next(path)


# Statistics.


def test_contrasts_by_hand() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 0.0], [5.0, 3.0, 2.0, 0.0]])
    assert stats.interaction(scores).tolist() == [1, 3]
    assert stats.interaction(scores[:, [0, 2]], (1, -1)).tolist() == [1, 3]
    assert stats.d_prime(scores) == pytest.approx(2 / 2**0.5) and np.isnan(stats.d_prime(scores[:1]))
    assert stats.d_prime(np.ones((3, 4))) == 0 and stats.d_prime(scores[[0, 0]]) == np.inf
    assert stats.pairwise_accuracy(scores).tolist() == [0.75, 1] and stats.pairwise_accuracy(np.ones((1, 4))) == [0.5]
    for signs in ((1, 1, -1), (1, 1, 1, -1)):
        with pytest.raises(ValueError, match=r"^got signs \(.*\) for 4 clips of a scene"):
            stats.interaction(scores, signs)


def test_chances_by_hand() -> None:
    null = np.array([[1.0, 5.0], [2.0, 1.0], [3.0, 2.0]])
    # cell 0: 2 of 3 are 2 or more; cell 1: 1 of 3 is 3 or more; the best of each row are 5, 2, 3
    assert stats.permutation_p(np.array([2.0, 3.0]), null).tolist() == [3 / 4, 2 / 4]
    assert stats.selection_corrected_p(np.array([2.0, 5.5]), null).tolist() == [1, 1 / 4]
    assert stats.selection_corrected_p(np.array([3.0]), null[:, :1]).tolist() == [2 / 4]
    # the best of 19 rows are 0 to 18: 1 of 20 at level .05, 2 at .1
    rows = np.stack([np.arange(19.0), np.zeros(19)], 1)
    assert stats.selection_threshold(rows) == 18 and stats.selection_threshold(rows, 0.1) == 17
    with pytest.raises(ValueError, match=r"^got 18 permutations for level 0.05 · expected at least 19"):
        stats.selection_threshold(rows[:18])


def test_a_single_group_has_a_mean_and_no_interval() -> None:
    estimate, low, high = stats.mean_interval(np.array([[2, 3]]))
    assert estimate.dtype == float and estimate.tolist() == [2, 3] and np.isnan([low, high]).all()


def test_labels_trade_places_within_scenes() -> None:
    possible, scenes = np.array([True, False, False, True]), np.array([*"xxyy"])
    drawn = stats.swapped_labels(possible, scenes, 400)
    assert drawn.shape == (400, 4) and (drawn[:, :2].sum(1) == 1).all() and (drawn[:, 2:].sum(1) == 1).all()
    whole, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(whole) == 4 and counts.min() > 70
    assert not np.array_equal(drawn, stats.swapped_labels(possible, scenes, 400, seed=1))
    with pytest.raises(ValueError, match=r"^got 1 of 2 quadruplets with unequal numbers of possible and"):
        stats.swapped_labels(np.array([True, True, False, True]), scenes, 1)


def test_flipped_signs_by_hand() -> None:
    # mean 2, standard deviation sqrt(2): t = 2 / (sqrt(2) / sqrt(2)) = 2; both flipped -2, one flipped (-1, 3): 1 / 2
    t, null = stats.sign_flips(np.array([[1.0, 0.0], [3.0, 0.0]]))
    assert t.tolist() == [pytest.approx(2.0), 0.0] and null.shape == (stats.FLIPS, 2) and not null[:, 1].any()
    assert {round(float(x), 6) for x in null[:, 0]} == {2.0, -2.0, 0.5, -0.5}
    share = (np.abs(null[:, 0]) > 1).mean()
    p = stats.sign_flip_p(np.array([[1.0, 0.0], [3.0, 0.0]]))
    assert share == pytest.approx(0.5, abs=0.05) and p[1] == 1.0


# What tells one state of the code from another.


def test_imports_that_count_from_where_a_file_lies(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\nfrom ..h import i\nfrom .. import j\n"
        "if TYPE_CHECKING:\n    import k\nelse:\n    import m\nif True:\n    import n\n"
    )
    assert {*results._imports(path, "one.two")} == {
        "a.b", "c", "c.d", "one.two", "one.two.e", "one.two.f", "one.two.f.g", "one.h", "one.h.i", "one", "one.j",
        "m", "n",
    }  # fmt: skip


def test_of_a_file_docstrings_alone_are_left_out(tmp_path: Path) -> None:
    def dumped(text: str) -> str:
        (tmp_path / "x.py").write_text(text)
        return ast.dump(results._bare(tmp_path / "x.py"))

    plain = dumped('"""Says."""\nx = 1\ny = 2\ndef f():\n    """Says."""\n    return 3\n')
    assert plain == dumped('"""Says otherwise."""\nx = 1\ny = 2\ndef f():\n    # so\n    """Too."""\n    return 3\n')
    for changed in ("x = 2\ny = 2", "x = 1\ny = 3", "x = '1'\ny = 2"):
        assert plain != dumped(f'"""Says."""\n{changed}\ndef f():\n    """Says."""\n    return 3\n')
    assert (
        dumped("def f():\n    3\n    return 3\n")
        == dumped("def f():\n    4\n    return 3\n")
        != dumped("def f(): pass\n")
    )


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "__file__", str(tmp_path / "package" / "results.py"))
    assert results._commit() == ""
    (tmp_path / "package").mkdir()
    (tmp_path / "file").write_text("x")
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    for arguments in (["init", "-q"], ["add", "file"], [*who, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    head = (tmp_path / ".git" / "refs" / "heads").glob("*")
    assert next(head).read_text().startswith(results._commit()) and len(results._commit()) >= 7
