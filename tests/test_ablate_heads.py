"""Ablation of heads as a question; batches with donors; scores that tell knowledge that is gone from what has moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from spliced import pair_of

from analyses.command import call
from dit_lens import results
from dit_lens.capture import clips_of
from dit_lens.clips import Scene
from dit_lens.datasets.recordings import Outline
from dit_lens.datasets.scenes import PAIR, Scenes
from dit_lens.lens import DiTLens
from dit_lens.measures import ablation
from dit_lens.probing import Probe, Reads
from dit_lens.studies.ablations import (
    by_property,
    check_donors,
    check_points,
    colours_of,
    donors_of,
    scene_first,
    scores,
    scores_there,
)
from dit_lens.studies.outcome import by_role
from dit_lens.toy.miniphys import MiniPhys

ROLES = list("ABCD")


class Source(Sequence[Scene]):
    """Pairs whose property and group are as they are named."""

    def __init__(self, scene: Scene, names: Sequence[tuple[str, str]]):
        self.scenes = []
        for i, (law, group) in enumerate(names):
            clips = [replace(clip, id=f"{i}/{clip.role}", property=law) for clip in pair_of(scene, 9).clips]
            self.scenes.append(Scene(str(i), tuple(clips), ((0, 1),), ((9,),), unit=group))

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index):
        return self.scenes[index]

    def outline(self, index: int) -> Outline:
        scene = self.scenes[index]
        return Outline(scene.id, scene.property, (True, False), scene.matches, unit=scene.unit)


def pairs(scene: Scene, names: Sequence[tuple[str, str]]) -> Scenes:
    source = Source(scene, names)
    return Scenes(source, [(i, None) for i in range(len(source))], PAIR)


def test_donors_are_of_the_same_property_and_batch_and_of_another_group(quadruplets: list[Scene]) -> None:
    """Several pairs of one scene are one group: none takes from another of them. A group alone is refused."""
    names = [("gravity", "x")] * 4 + [("inertia", "u"), ("gravity", "y"), ("inertia", "v"), ("gravity", "z")]
    scenes = pairs(quadruplets[0], names)
    parts = [list(batch) for batch in by_property(scenes, 2)]
    assert sorted(scene.id for part in parts for scene in part) == sorted(str(i) for i in range(8))
    assert [{scene.property for scene in part} for part in parts] == [{"gravity"}, {"inertia"}]
    for part in parts:
        clips, givers = clips_of(part), donors_of(part, 0).tolist()
        group = {clip.id: scene.group for scene in part for clip in scene.clips}
        assert all(group[clip.id] != group[clips[g].id] for clip, g in zip(clips, givers, strict=True))
    check_donors(scenes)
    with pytest.raises(ValueError, match="single scene of inertia"):
        check_donors(scenes.at([0, 4, 5]))


def test_a_model_without_a_hook_point_is_refused_by_the_reason(lens: DiTLens) -> None:
    check_points(lens, ["blocks.0.attn.hook_z", "blocks.5.attn.hook_pattern"])
    with pytest.raises(KeyError, match=r"no hook point 'blocks\.0\.attn\.hook_zz' in mini-wan"):
        check_points(lens, ["blocks.0.attn.hook_z", "blocks.0.attn.hook_zz"])


def test_batches_are_of_nearly_equal_size_and_two_groups_at_least(quadruplets: list[Scene]) -> None:
    for count, size, sizes in ((7, 3, [4, 3]), (4, 1, [2, 2]), (5, 8, [5]), (3, 1, [3])):
        scenes = pairs(quadruplets[0], [("any", str(i)) for i in range(count)])
        assert [len(batch) for batch in by_property(scenes, size)] == sizes


def test_rows_of_clips_become_tables_by_scene_and_role(quadruplets: list[Scene]) -> None:
    for batch in (quadruplets[:3], [pair_of(scene, 9) for scene in quadruplets[:3]]):
        names = [clip.id for clip in clips_of(batch)]
        table = by_role(xr.Dataset({"name": ("clip", names)}), batch)
        rows = scene_first(np.array(names), batch)
        for i, scene in enumerate(batch):
            assert rows[i].tolist() == [clip.id for clip in scene.clips]
            assert table.name.sel(scene=scene.id).values.tolist() == rows[i].tolist()
        assert tuple(table.role.values) == batch[0].roles


def test_moved_knowledge_fails_the_fixed_probe_alone_and_lost_knowledge_both() -> None:
    scenes = [MiniPhys(split, 60)[:] for split in ("train", "test")]
    colours = [colours_of(part) for part in scenes]
    random, sign = np.random.default_rng(0), np.array([1.0, 1.0, -1.0, -1.0])

    def clips(axis: int | None) -> np.ndarray:
        x = random.normal(size=(60, 4, 6))
        if axis is not None:
            x[..., axis] += 2 * sign
        return x

    probe = Probe(torch.tensor([[1.0, 0, 0, 0, 0, 0]]), 0.0, 1.0, Reads("blocks.2.hook_resid_post", 2, 0.5, "none"))
    accuracy = {}
    for name, axis in (("whole", 0), ("moved", 3), ("lost", None)):
        good, of = scores(probe, clips(axis), clips(axis), ROLES, colours).sum(-1).T
        accuracy[name] = dict(zip(ablation.SCORES, good / of, strict=True))
    assert accuracy["whole"]["fixed"] > 0.9 and accuracy["whole"]["refitted"] > 0.9
    assert abs(accuracy["moved"]["fixed"] - 0.5) < 0.1 < 0.9 < accuracy["moved"]["refitted"]
    assert abs(accuracy["lost"]["fixed"] - 0.5) < 0.1 and abs(accuracy["lost"]["refitted"] - 0.5) < 0.1
    assert accuracy["whole"]["colour"] < 0.4


def test_colour_is_scored_where_the_truth_is_known_alone(quadruplets: list[Scene]) -> None:
    probe = Probe(torch.ones(1, 6), 0.0, 1.0, Reads("blocks.2.hook_resid_post", 2, 0.5, "none"))
    known, unknown = colours_of(quadruplets), colours_of([pair_of(scene, 9) for scene in quadruplets])
    assert known is not None and known.shape == (10, 4) and unknown is None
    x = np.random.default_rng(0).normal(size=(10, 4, 6))
    assert len(scores(probe, x, x, ROLES, (known, known))) == 3
    assert scores_there((known, None)) == scores_there((None, None)) == ["fixed", "refitted"]
    assert scores(probe, x[:, :2], x[:, :2], PAIR).shape == (2, 2, 10)
    planted = np.concatenate([x, 9.0 * (known[..., None] == np.unique(known))], -1)
    probe = replace(probe, weight=torch.ones(1, planted.shape[-1]))
    right, of = scores(probe, planted, planted, ROLES, (known, known))[2].sum(-1)
    assert right == of == (known != "").sum() > 0


def test_a_loss_is_what_the_whole_model_has_more() -> None:
    counts = np.zeros((2, 1, 2, 4, 1, 2))
    counts[:, 0, 1] = 1
    counts[0, 0, 0] = 0.75
    counts[1, 0, 0, :, 0] = [0.25, 0.75]
    result = xr.Dataset(
        {"counts": (("replacement", "score", "part", "scene", "block", "head"), counts)},
        coords={"replacement": ["none", "zero"], "score": ["fixed"], "part": ["good", "of"], "scene": range(4)},
    )
    assert ablation.loss(result).values.ravel().tolist() == [0.5, 0.0]
    estimate, low, high = ablation.loss_interval(result.isel(score=0, block=0, head=0))
    same = 0.025**0.25  # four scenes that are alike: see `stats.ratio_interval`
    assert float(estimate) == 0.5
    assert (float(low), float(high)) == pytest.approx((2 * 0.75 * same - 1, 1 - 2 * 0.25 * same))


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--controls --properties inertia --train 5 --test 2 --sampler-steps 2 --read-at 1 --full --block 1"
    call("ablate_heads", [*options.split(), "--replacements", "mean", "random write", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "mini-wan, whole: fixed" in printed and "random write" in printed and "n = 2" in printed
    (figure,), (file,) = tmp_path.glob("ablate_heads-*.pdf"), tmp_path.glob("ablate_heads-*.nc")
    assert figure.stat().st_size > 5000
    counts = results.open_result(file).counts
    assert counts.sizes["block"] == 2 and counts.sizes["head"] == 4
    whole = counts.sel(replacement="none")
    assert (whole.isel(block=0, head=0) == whole).all() and not (counts.isel(replacement=1) == counts[:, 0]).all()
    assert (counts.sel(part="of", score=["fixed", "refitted"]) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--replacements", "zeros"], "did you mean 'zero'"), (["--replacements"], "expected one or more of zero")],
)
def test_bad_input_says_what_to_do(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call("ablate_heads", ["--train", "5", "--test", "2", "--out", str(tmp_path), *arguments])
    assert ended.value.code == 2 and says in capsys.readouterr().err
