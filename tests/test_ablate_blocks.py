"""Blocks taken away, at once and along the way alike; effects divided by label; errors from each scene's own break."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from spliced import pair_of

from analyses.ablate_blocks import Config, steps_away
from analyses.command import call
from dit_lens import ablation, results
from dit_lens.capture import NoisePath, encode, spliced_noise, trajectory_of
from dit_lens.clips import Scene
from dit_lens.datasets.recordings import Outline
from dit_lens.datasets.scenes import labelled_pairs
from dit_lens.interventions import sweep
from dit_lens.lens import DiTLens
from dit_lens.measures.ablate_blocks import change, surprise
from dit_lens.measures.nulls import sign_flips
from dit_lens.metrics import Readout, Run, VelocityError
from dit_lens.running import Evaluation, Request
from dit_lens.studies.block_ablations import REPLACEMENTS, WRITES, Absent, Material, material_of, writes_of
from dit_lens.studies.block_readings import paths_of
from dit_lens.studies.velocity_errors import error_from_break
from dit_lens.toy.miniphys import MiniPhys

STEP, BLOCK = 2, 1


@pytest.fixture(scope="module")
def batch() -> list[Scene]:
    return MiniPhys("test", 3, ["gravity"])[:]


@pytest.fixture(scope="module")
def fed(lens: DiTLens, batch: list[Scene]) -> dict[int, Evaluation]:
    path = trajectory_of(lens, batch, NoisePath("inversion", 4), until=STEP)
    return {step: lens.evaluation(path, step) for step in (1, STEP)}


@pytest.fixture(scope="module")
def material(lens: DiTLens, fed: dict[int, Evaluation], batch: list[Scene]) -> Material:
    means = ablation.means_over(lens, [fed], [w for b in range(lens.blocks) for w in writes_of(lens, b)])
    return material_of(lens, fed, batch, REPLACEMENTS, means, (0.5, 0))


class Listed(list[Scene]):
    """Scenes in memory, as a data set."""

    def outline(self, index: int) -> Outline:
        scene = self[index]
        return Outline(scene.id, scene.property, tuple(clip.possible for clip in scene.clips), scene.matches)


def summed(point: str) -> Readout:
    return Readout(lambda velocity, cache: cache[point].flatten(1)[:, ::7].sum(1), (point,))


@pytest.mark.parametrize(("replacement", "write"), [*product(REPLACEMENTS, WRITES)])
def test_absent_in_a_sweep_is_absent_under_hooks(
    replacement: str, write: str, lens: DiTLens, fed: dict[int, Evaluation], material: Material
) -> None:
    end, writes = "blocks.4.hook_resid_post", writes_of(lens, BLOCK)
    assert [name.rpartition("_")[0] for name in writes] == [f"blocks.1.hook_{w}" for w in ("attn", "cross_attn", "mlp")]
    cell, metric = Absent(replacement, write, BLOCK), summed(end)  # type: ignore[arg-type]
    absent = cell.intervention(writes, material)
    fast = sweep(lens, fed[STEP], [absent], {"": metric})
    with lens.hooks(absent.edits):
        moved = read_at(lens, fed[STEP], end)
    torch.testing.assert_close(fast.effect[""][:, 0], moved - fast.before[""], rtol=1e-4, atol=1e-3)
    assert fast.effect[""].abs().mean() > 0.05


def read_at(lens: DiTLens, evaluation: Evaluation, point: str) -> torch.Tensor:
    with torch.no_grad():
        velocity, cache = lens.model.run(evaluation, Request([point]))
    return summed(point)(velocity, cache)


def test_a_random_write_is_as_long_as_the_blocks_own(
    lens: DiTLens, fed: dict[int, Evaluation], material: Material
) -> None:
    pre, post = (material.whole[f"blocks.{BLOCK}.hook_resid_{end}"][STEP] for end in ("pre", "post"))
    streams: list[torch.Tensor] = []
    pushed = Absent("random write", "all", BLOCK).intervention(writes_of(lens, BLOCK), material)
    (point,) = pushed.points
    with lens.hooks([*pushed.edits, (point, lambda x, hook: streams.append(x))]):
        read_at(lens, fed[STEP], point)
    torch.testing.assert_close((streams[0] - post).norm(dim=-1), (post - pre).norm(dim=-1), rtol=1e-4, atol=1e-4)


def test_a_block_that_writes_nothing_is_not_missed(
    lens: DiTLens, fed: dict[int, Evaluation], material: Material
) -> None:
    """Its writes are taken away before: to take them away again does nothing; with another block it does."""
    gone = [(write, lambda x, hook: torch.zeros_like(x)) for write in writes_of(lens, BLOCK)]
    again, another = (Absent("zero", "all", b).intervention(writes_of(lens, b), material).edits for b in (BLOCK, 3))
    end = "blocks.4.hook_resid_post"
    values = []
    for hooks in (gone, [*gone, *again], another):
        with lens.hooks(hooks):
            values.append(read_at(lens, fed[STEP], end))
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-4)
    assert (values[2] - values[0]).abs().min() > 0.1


def planted(effect: float) -> xr.Dataset:
    """Logits to which block 1 is needed by `effect`, block 0 by content alone and block 2 not at all; errors alike."""
    random, n = np.random.default_rng(0), 12
    sign = np.array([1.0, 1.0, -1.0, -1.0])
    logit = np.zeros((1, 2, 1, 3, n, 4)) + 0.4 * sign
    logit[:, 1, :, 0] += random.normal(size=(n, 1)) + 0.05 * random.normal(size=(n, 4))
    logit[:, 1, :, 1] -= effect * sign * random.uniform(0.5, 1.5, size=(n, 1))
    logit[:, 1, :, 2] += 0.05 * random.normal(size=(n, 4))
    dims = ("reading", "replacement", "write", "block", "scene", "role")
    coords = {"role": list("ABCD"), "replacement": ["none", "mean"]}
    return xr.Dataset({"logit": (dims, logit), "error": (dims[1:], 1 - 0.1 * logit[0])}, coords=coords)


def test_what_a_label_needs_is_separated_from_content() -> None:
    changed = change(planted(0.3))
    assert changed.sel(replacement="none").values == pytest.approx(0.8)
    mean = changed.sel(replacement="mean").mean("scene").values.ravel()
    assert mean[1] == pytest.approx(-0.6, abs=0.15) and abs(mean[0]) < 0.05 and abs(mean[2]) < 0.05
    flips = sign_flips(changed.drop_sel(replacement="none"))
    beyond = float(flips.threshold)
    assert (np.abs(flips.t.values.ravel()) > beyond).tolist() == [False, True, False] and 2 < beyond < 5
    flips = sign_flips(change(planted(0.0)).drop_sel(replacement="none"))
    assert (np.abs(flips.t.values) < float(flips.threshold)).all()


def test_without_the_block_that_carries_the_label_the_model_is_less_surprised() -> None:
    top, bottom = surprise(planted(0.3))
    value = (top.sum("scene") / bottom.sum("scene")).values
    assert value[0] == pytest.approx(100 * 0.08 / 0.96)
    assert value[1, 0, 1] == pytest.approx(-100 * 0.06 / 0.96, rel=0.25) and abs(value[1, 0, [0, 2]]).max() < 1


def test_errors_are_of_the_frames_from_each_scenes_own_break_on(lens: DiTLens, batch: list[Scene]) -> None:
    """As of a region where all break alike; of pairs that break apart what each has alone, and not the other's."""
    path = NoisePath("continuation", 4)
    clean = encode(lens.encode, batch)
    truth, region = spliced_noise(clean, batch, path.seed) - clean, (slice(3, None), slice(None), slice(None))
    velocity = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    nothing = Run(velocity, {})
    alike = VelocityError(truth, region).bind(nothing, nothing)(velocity, {})
    torch.testing.assert_close(error_from_break(lens, batch, path)(velocity, {}), alike)
    early, late = pair_of(batch[0], 5), pair_of(batch[1], 13)
    values = error_from_break(lens, [early, late], path)(velocity[:4], {})
    for scene, rows, wrong_break in ((early, [0, 2], 13), (late, [1, 3], 5)):
        torch.testing.assert_close(error_from_break(lens, [scene], path)(velocity[rows], {}), values[rows])
        elsewhere = error_from_break(lens, [replace(scene, breaks=((wrong_break,),))], path)(velocity[rows], {})
        assert (elsewhere - values[rows]).abs().min() > 1e-3


def test_frames_are_given_where_clips_begin_alike_and_not_otherwise(lens: DiTLens, batch: list[Scene]) -> None:
    config = Config(train=5, test=2, path="inversion", sampler_steps=4, read_at=(2,))

    def paths(scenes: list[Scene], options: Config = config) -> list[str]:
        listed = labelled_pairs(Listed(scenes))
        return list(paths_of(options, lens, (listed, listed)))

    assert paths(batch) == ["continuation", "inversion"]
    assert paths([*batch, pair_of(batch[0], 0)]) == ["inversion"]
    assert paths(batch, Config(path="continuation")) == ["continuation"]


def test_a_block_is_away_at_the_last_steps_before_the_readout() -> None:
    assert list(steps_away(Config(), 7)) == [4, 5, 6] and list(steps_away(Config(), 1)) == [0]


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--controls --properties inertia --sampler-steps 2 --read-at 1 --train 5 --test 2 --replacements mean"
    call("ablate_blocks", [*options.split(), "--writes", "all", "--block", "1", "--full", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "n = 2 test scenes" in printed and "on the way, label effect" in printed and "surprise" in printed
    (figure,), (file,) = tmp_path.glob("ablate_blocks-*.pdf"), tmp_path.glob("ablate_blocks-*.nc")
    assert figure.stat().st_size > 5000
    result = results.open_result(file)
    assert list(result.reading.values) == ["half given", "at the readout", "on the way", "both"]
    effect = change(result).drop_sel(replacement="none").isel(scene=0)
    for reading in ("half given", "at the readout"):  # blocks after the readout can do something on the way alone
        behind = effect.sel(reading=reading).isel(model=0, replacement=0, write=0).isnull()
        assert behind.values.tolist() == [block > 1 for block in range(6)]
    assert not effect.sel(reading=["on the way", "both"]).isnull().any()
    assert (result.counts.sel(part="of", score="fixed").isel(block=0) == 1).all()
    assert not result.counts.sel(reading="half given", score="refitted").isel(block=0).isnull().any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--away", "0"], "away 0"),
        (["--solver", "midpoint"], "evaluate the model only at steps"),
        (["--path", "noising"], "got --path noising"),
        (["--replacements"], "expected one or more replacements"),
    ],
)
def test_bad_input_says_what_to_do(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call("ablate_blocks", ["--train", "5", "--test", "2", *arguments])
    assert ended.value.code == 2 and says in capsys.readouterr().err
