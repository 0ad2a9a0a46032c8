"""The interaction readout: zero where frames do not meet, the difference of two runs where they do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import build
from torch import Tensor

from analyses import command
from analyses.probe_blocks import Config
from dit_lens import ablation, laws, results
from dit_lens.axes import TokenGrid
from dit_lens.capture import NoisePath, Recipe, StoreFolder, Take, capture, clips_of, evaluations, features
from dit_lens.capture.collecting import Collector
from dit_lens.capture.interaction import check_separated, cut_between, cut_runs, parts_of
from dit_lens.clips import Scene
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, Request, repeat, some
from dit_lens.studies import encoders
from dit_lens.studies.price import price
from dit_lens.toy.miniphys import MiniPhys

SCENES = MiniPhys(split="test", quadruplets=3, seed=0)
PATH, STEP = NoisePath("noising", 4), 2


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    return DiTLens.from_pretrained("mini-wan-random", verify=False)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [SCENES[number] for number in range(3)]


def after(block: int) -> str:
    return f"blocks.{block}.hook_resid_post"


def kept(lens: DiTLens, scenes: list[Scene], take: str) -> dict[str, Any]:
    return capture(lens, scenes, Recipe((Take.parse(take),), (STEP,), PATH))


def test_it_is_the_difference_of_a_whole_run_and_one_with_attention_cut_block_by_block(
    lens: DiTLens, scenes: list[Scene]
) -> None:
    (evaluation,) = evaluations(lens, scenes, [STEP], PATH).values()
    (parts,) = {tuple(row.tolist()) for row in parts_of(scenes, lens.model.grid(evaluation).frames)}
    before = (slice(0, parts.index(True)), slice(None), slice(None))
    behind = (slice(parts.index(True), None), slice(None), slice(None))
    knock_out = ablation.between((before, behind), (behind, before))  # by the same edits as `cut_attention`
    names = [after(block) for block in range(lens.blocks)]
    _, whole = lens.model.run(evaluation, Request(names))
    with lens.hooks([knock_out(block, None) for block in range(lens.blocks)]):
        _, cut = lens.model.run(evaluation, Request(names))
    (result,) = kept(lens, scenes, "interaction:blocks.*.hook_resid_post=space_mean").values()
    ids = [clip.id for clip in clips_of(scenes)]
    order = [ids.index(name) for name in result.clips.id]
    for block, name in enumerate(names):
        by_frame = (whole[name] - cut[name]).unflatten(1, (len(parts), -1)).mean(2)[order].flatten(1).numpy()
        np.testing.assert_allclose(result.cell(STEP, block), by_frame, atol=2e-6)
    assert np.abs(result.cell(STEP, lens.blocks - 1)).max() > 1e-3


def test_it_is_zero_where_no_frame_has_looked_at_another(lens: DiTLens, scenes: list[Scene]) -> None:
    (entering,) = kept(lens, scenes, "interaction:blocks.0.hook_resid_pre=mean").values()
    (patch,) = kept(lens, scenes, "interaction:hook_latent=none").values()
    assert not entering.cell(STEP, 0).any() and not patch.cell(STEP, 0).any()
    (first,) = kept(lens, scenes, "interaction:blocks.0.hook_resid_post=mean").values()
    assert first.cell(STEP, 0).any()


def test_a_scene_does_not_depend_on_its_batch_mates(lens: DiTLens, scenes: list[Scene]) -> None:
    """Scenes that break elsewhere share a batch; each has its own cut."""
    later = replace(scenes[1], breaks=((5,), (5,)))
    assert len({tuple(row.tolist()) for row in parts_of([scenes[0], later], 5)}) == 2
    together = features(lens, [scenes[0], later], [STEP], PATH, pooling="moments", interaction=True)
    alone = features(lens, [later], [STEP], PATH, pooling="moments", interaction=True)
    shown = features(lens, [scenes[1]], [STEP], PATH, pooling="moments", interaction=True)
    for cell in alone.cells:
        np.testing.assert_allclose(together.cells[cell][4:], alone.cells[cell], atol=2e-6)
    assert not np.allclose(alone.cell(STEP, 3), shown.cell(STEP, 3), atol=1e-3)


def test_a_pattern_cut_between_parts_by_hand() -> None:
    grid, parts = TokenGrid(3, 1, 1), torch.tensor([[False, False, True], [False, True, False]])
    pattern = torch.tensor([0.5, 0.3, 0.2]).expand(2, 1, 3, 3)
    result = cut_between(parts)(pattern, Hook("blocks.0.attn.hook_pattern", "b k n n", grid, None, 0.5))
    assert isinstance(result, Tensor)
    torch.testing.assert_close(result[0, 0, 0], torch.tensor([0.625, 0.375, 0.0]))
    torch.testing.assert_close(result[0, 0, 2], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(result[1, 0, 0], torch.tensor([5 / 7, 0.0, 2 / 7]))
    torch.testing.assert_close(result[1, 0, 1], torch.tensor([0.0, 1.0, 0.0]))
    joint = torch.tensor([0.4, 0.2, 0.2, 0.2]).expand(2, 1, 3, 4)  # a text key beside the three of the video
    result = cut_between(parts)(joint, Hook("blocks.0.attn.hook_pattern", "b k n m", grid, None, 0.5))
    torch.testing.assert_close(result[0, 0, 2], torch.tensor([0.0, 0.0, 0.5, 0.5]))


def example(name: str) -> tuple[DiTLens, Evaluation, Tensor]:
    """A small model, two clips of it, and parts that differ by clip."""
    lens = DiTLens(transformer=build(name), verify=False)
    evaluation = repeat(some(laws.example(lens.model.members[0]), slice(0, 1)), 2)
    frames = lens.model.grid(evaluation).frames
    return lens, evaluation, torch.arange(frames) >= torch.tensor([[1], [frames - 1]])


@pytest.mark.parametrize("name", ["wan", "ltx", "cosmos", "cogvideox", "hunyuan", "hunyuan15", "mochi"])
def test_what_is_left_of_a_part_without_its_interaction_does_not_depend_on_the_other_part(name: str) -> None:
    """In joint attention too, where frames also meet in the text."""
    lens, evaluation, parts = example(name)
    check_separated(lens, evaluation, parts)
    take = Take.parse("interaction:blocks.*.hook_resid_post=none")
    last = after(lens.blocks - 1)

    def streams(change: Tensor) -> tuple[Tensor, Tensor]:
        """The last stream as it is, and without its interaction."""

        def add(x: Tensor, hook: Hook) -> Tensor:
            return x + change.repeat(len(x) // len(change), 1)[:, None, :, None, None]

        with lens.hooks([("hook_latent", add)]):
            _, kept = lens.model.run(evaluation, Request(last))
            taken = Collector(lens, (take,)).evaluate(lens, evaluation, parts)
        added = taken["resid_post.interaction.none", lens.blocks - 1].values.flatten(1, 3)
        stream = kept[last][:, : added.shape[1]]
        return stream, stream - added

    whole, apart = streams(torch.zeros(parts.shape))
    changed, still_apart = streams(parts.float())
    grid = lens.model.grid(evaluation)
    first = ~parts.repeat_interleave(grid.rows * grid.columns, dim=1)
    scale = (changed - whole)[~first].abs().max()
    assert (changed - whole)[first].abs().max() > 1e-4 * scale  # frames do meet
    torch.testing.assert_close(still_apart[first], apart[first], rtol=0, atol=float(1e-5 * scale))
    assert (still_apart - apart)[~first].abs().max() > 0.1 * scale


@pytest.mark.parametrize(("name", "runs"), [("wan", 1), ("cogvideox", 2), ("mochi", 2)])
def test_text_that_reads_the_video_costs_a_second_cut_run(name: str, runs: int) -> None:
    assert cut_runs(DiTLens(transformer=build(name), verify=False)) == runs


def test_text_tokens_belong_to_neither_part() -> None:
    lens, evaluation, parts = example("cogvideox")
    take = Take.parse("interaction:blocks.*.text.hook_resid_post=none")
    with pytest.raises(ValueError, match="expected a point of video tokens"):
        Collector(lens, (take,)).evaluate(lens, evaluation, parts)


def test_a_model_whose_frames_meet_elsewhere_too_is_refused() -> None:
    lens, evaluation, parts = example("ltx2")  # by way of the sound
    with pytest.raises(ValueError, match="more than attention over video and text tokens"):
        check_separated(lens, evaluation, parts)


def test_scenes_without_two_parts_are_refused(scenes: list[Scene]) -> None:
    for scene, message in (
        (replace(scenes[0], breaks=()), "not known to share frames"),
        (replace(scenes[0], breaks=((0,), (0,))), "share no latent frame"),
        (replace(scenes[0], matches=((0, 2), (0, 3)), breaks=((9,), (5,))), "breaks elsewhere in each"),
        (replace(scenes[0], matches=((0, 2),), breaks=((9,),)), "compared with none"),
    ):
        with pytest.raises(ValueError, match=message):
            parts_of([scene], 5)


def test_a_store_holds_what_is_captured_in_memory(lens: DiTLens, scenes: list[Scene], tmp_path: Any) -> None:
    take = "interaction:blocks.*.hook_resid_post=space_moments"
    recipe = Recipe((Take.parse(take),), (STEP,), PATH)
    assert str(recipe.takes[0]) == take
    memory, stored = (capture(lens, scenes, recipe, folder) for folder in (None, StoreFolder(tmp_path, {"data": "x"})))
    assert list(memory) == list(stored) == ["resid_post.interaction.space_moments"]
    for name, result in memory.items():
        for cell, values in result.cells.items():
            np.testing.assert_array_equal(stored[name].cells[cell], values)
        assert result.reads(STEP, 0) is None  # no linear function of one activation: no probe to patch against


def test_a_question_reads_it_and_one_that_cannot_says_so(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--model",
        "mini-wan-random",
        "--controls",
        "--path",
        "noising",
        "--sampler-steps",
        "4",
        "--read-at",
        "2",
    ]
    sizes = ["--train", "10", "--test", "6", "--unseen", "0", "--properties", "gravity", "--out", str(tmp_path)]
    command.call("probe_blocks", [*options, *sizes, "--readout", "interaction", "--autoencoder", ""])
    (path,) = tmp_path.glob("probe_blocks-*.nc")
    result = results.open_result(path)
    assert results.facts(result)["config"]["readout"] == "interaction"
    assert "mini-wan-random, noising" in result.source.values
    assert "what attention across the break adds to the states of mini-wan-random" in capsys.readouterr().out
    for arguments, says in (
        (["patch_heads", "--readout", "interaction"], "a difference of two runs · expected blocks"),
        (["probe_blocks", "--readout", "interaction", "--data", f"intphys2={tmp_path}"], "pairs do not share frames"),
    ):
        with pytest.raises(SystemExit) as ended:
            command.call(arguments[0], [*arguments[1:], "--out", str(tmp_path)])
        assert ended.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(("reduction", "linear"), [("space_mean", True), ("mean", True), ("moments.space_mean", False),
                                                   ("space_moments", False), ("mean.random:4", False)])  # fmt: skip
def test_only_token_means_are_read_at_a_point(reduction: str, linear: bool, lens: DiTLens, scenes: list[Scene]) -> None:
    """A probe of what is no linear function of one activation has no activation to be patched against."""
    (result,) = kept(lens, scenes[:1], f"blocks.*.hook_resid_post={reduction}").values()
    reads = result.reads(STEP, 2)
    assert (reads is not None) is linear and (reads is None or reads.point == after(2))


@pytest.mark.parametrize(("pooling", "numbers"), [("frames", 5), ("tokens", 1), ("moments", 10)])
def test_the_pooling_of_states_is_the_one_that_was_asked(
    pooling: Any, numbers: int, lens: DiTLens, scenes: list[Scene]
) -> None:
    widths = set()
    for readout in ("blocks", "interaction"):
        study = Config(model="mini-wan-random", path="noising", sampler_steps=4, read_at=(2,), readout=readout)
        read, _ = encoders.states_and_input(study, lens, pooling=pooling)
        widths.add(read(scenes[:1]).cell(STEP, 0).shape[1])
    config = lens.transformer.config
    assert widths == {numbers * config.num_attention_heads * config.attention_head_dim}


def test_the_price_counts_the_second_run(lens: DiTLens) -> None:
    options: Any = {"model": "mini-wan-random", "controls": (), "path": "noising", "sampler_steps": 4, "read_at": (2,)}
    plain, twice = (
        price(Config(**options, train=5, test=2, also=(), unseen=0, readout=readout).resolved(), lens)
        for readout in ("blocks", "interaction")
    )
    assert twice.evaluations == 2 * plain.evaluations
