"""Capture: a scene's result is its own, whatever its batch; crossed where it should be; equal to single evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from guided_pipelines import cogvideox
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spliced import crossed_at, pair_of

from dit_lens import datasets
from dit_lens.capture import (
    NoisePath,
    Recipe,
    StoreFolder,
    Take,
    alike,
    by_scene,
    capture,
    clips_of,
    differing,
    encode,
    evaluations,
    features,
    given_frames,
    latent_frame,
    latent_splice,
    of_role,
    partly_noised,
    pooled,
    spliced_noise,
    trajectory_of,
)
from dit_lens.capture.collecting import Collector
from dit_lens.clips import Scene
from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens

SCENES = list(datasets.load("miniphys", split="test", quadruplets=3))
# Breaks in the second, third and fourth of the last four latent frames, one that breaks twice, pairs that break apart.
SPLICED = [
    crossed_at(SCENES[0], (5,)),
    crossed_at(SCENES[1], (9,)),
    crossed_at(SCENES[2], (13,)),
    crossed_at(SCENES[0], (5, 12)),
    crossed_at(SCENES[1], (5,), (13,)),
]
PATHS = ("inversion", "noising", "continuation")


# Worked by hand: 17 frames lie in 5 latent frames of 1, 4, 4, 4, 4.


@pytest.mark.parametrize(("frame", "latent"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (16, 4)])
def test_a_frame_lies_in_its_latent_frame(frame: int, latent: int) -> None:
    assert latent_frame(frame, 17, 5) == latent


def test_frames_may_lie_in_latent_frames_of_one_size() -> None:
    assert [latent_frame(frame, 8, 2) for frame in (0, 3, 4, 7)] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="16 frames · expected a number of frames that the autoencoder keeps"):
        latent_frame(3, 16, 5)


def test_clips_differ_between_their_breaks() -> None:
    assert differing(SPLICED[3], 0, 5).tolist() == [False, False, True, True, False]
    assert differing(SPLICED[4], 1, 5).tolist() == [False, False, False, False, True]
    assert [given_frames(scene, 5) for scene in SPLICED] == [[2] * 4, [3] * 4, [4] * 4, [2] * 4, [2, 4, 2, 4]]
    assert latent_splice(torch.zeros(1, 5, 2, 2), SPLICED[2]) == 4
    with pytest.raises(ValueError, match="whose pairs differ from latent frames 2, 4 on"):
        latent_splice(torch.zeros(1, 5, 2, 2), SPLICED[4])


def test_scenes_are_batched_with_their_like() -> None:
    again = crossed_at(SCENES[2], (6,))  # in the same latent frame as a break at 5
    batches = [[scene.id for scene in batch] for batch in alike([*SPLICED, again], 2, 5)]
    assert [SPLICED[0].id, again.id] in batches and len(batches) == 5
    plain = [[scene.id for scene in batch] for batch in alike(SCENES, 2, 5)]
    assert plain == [[SCENES[0].id, SCENES[1].id], [SCENES[2].id]]


# A result never depends on batch mates.


def logits_of(lens: DiTLens, scenes: list[Scene], kind: str) -> dict[str, torch.Tensor]:
    """What the transformer is fed and its last block's output, by clip."""
    path = NoisePath(kind, 4)  # pyright: ignore[reportArgumentType]
    (fed,) = evaluations(lens, scenes, [2], path).values()
    from dit_lens.running import Request

    _, cache = lens.model.run(fed, Request("blocks.5.hook_resid_post"))
    ids = [clip.id for clip in clips_of(scenes)]
    return dict(zip(ids, cache["blocks.5.hook_resid_post"], strict=True))


@pytest.fixture(scope="module")
def alone(lens: DiTLens) -> dict[str, dict[str, torch.Tensor]]:
    return {
        kind: {key: value for scene in SPLICED for key, value in logits_of(lens, [scene], kind).items()}
        for kind in PATHS
    }


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(len(SPLICED))), size=st.integers(2, len(SPLICED)), kind=st.sampled_from(PATHS))
def test_a_scene_is_what_it_is_alone_in_any_batch(
    lens: DiTLens, alone: dict[str, dict[str, torch.Tensor]], order: list[int], size: int, kind: str
) -> None:
    batch = [SPLICED[i] for i in order[:size]]
    for clip, value in logits_of(lens, batch, kind).items():
        torch.testing.assert_close(value, alone[kind][clip], rtol=0, atol=2e-4)


def test_the_break_of_another_scene_would_show(lens: DiTLens, alone: dict[str, dict[str, torch.Tensor]]) -> None:
    """The positive control: with a neighbour's break in place of its own, a scene is another."""
    crossed = crossed_at(SCENES[1], (13,))
    (key,) = (clip.id for clip in SPLICED[1].clips if clip.role == "A")
    elsewhere = logits_of(lens, [crossed], "continuation")[crossed["A"].id]
    assert (elsewhere - alone["continuation"][key]).abs().max() > 0.05


def test_each_clip_is_given_the_frames_before_its_own_break(lens: DiTLens) -> None:
    clean = encode(lens.encode, SPLICED)
    noise = spliced_noise(clean, SPLICED, 0)
    fed = partly_noised(lens, clean, noise, 0.5, [2, 3, 4, 2, 2] * 2 + [2, 3, 4, 2, 2] * 2)
    time = fed["timestep"].view(20, 5, 16)[..., 0]
    assert (time == 0).sum(1).tolist() == [2, 3, 4, 2, 2] * 4
    assert torch.equal(fed["latent"][2, :, :4], clean[2, :, :4])
    assert torch.equal(fed["latent"][0, :, 2:], 0.5 * clean[0, :, 2:] + 0.5 * noise[0, :, 2:])


def test_frames_are_not_given_where_clips_share_none(lens: DiTLens) -> None:
    strangers = Scene("s", (SCENES[0]["A"], SCENES[1]["C"]), ((0, 1),))
    with pytest.raises(ValueError, match=r"share no first frames .* --path inversion or noising"):
        evaluations(lens, [strangers], [2], NoisePath("continuation", 4))
    early = crossed_at(SCENES[0], (0, 8))
    with pytest.raises(ValueError, match="share no first frames"):
        evaluations(lens, [early], [2], NoisePath("continuation", 4))


# Noise.


def test_noised_latents_of_a_quadruplet_are_crossed_at_every_step(lens: DiTLens) -> None:
    for scenes in (SCENES, SPLICED[:4]):
        path = trajectory_of(lens, scenes, NoisePath("noising", sampler_steps=6))
        a, b, c, d = path.latents.unflatten(1, (4, len(scenes))).double().unbind(1)
        if scenes is SCENES:  # the latents of miniphys' codec do not mix frames
            torch.testing.assert_close(a + b, c + d, rtol=0, atol=1e-5)
        assert (a - c).abs().max() > 1


def test_the_noise_of_a_crossed_scene_is_crossed_where_it_breaks() -> None:
    latents = torch.zeros(16, 3, 5, 2, 2)
    a, b, c, d = spliced_noise(latents, SPLICED[:4], 0).unflatten(0, (4, 4)).unbind(0)
    assert torch.equal(a + b, c + d) or torch.allclose(a + b, c + d)
    twice = 3
    assert torch.equal(c[twice, :, [0, 1, 4]], a[twice, :, [0, 1, 4]])
    assert torch.equal(c[twice, :, 2:4], b[twice, :, 2:4])


def test_the_noise_of_a_scene_does_not_depend_on_its_neighbours(lens: DiTLens) -> None:
    latents = lens.encode(clips_of(SCENES))
    together = spliced_noise(latents, SCENES, 0).unflatten(0, (4, 3))[:, 1]
    alone = spliced_noise(lens.encode(clips_of(SCENES[1:2])), SCENES[1:2], 0)
    assert torch.equal(together, alone)
    assert not torch.equal(alone, spliced_noise(latents[:4], SCENES[1:2], 1))


def test_the_clips_of_a_single_pair_have_one_noise() -> None:
    pairs = [pair_of(SCENES[0], 9), pair_of(SCENES[1], 5)]
    noise = spliced_noise(torch.zeros(4, 3, 5, 2, 2), pairs, 0)
    assert torch.equal(noise[:2], noise[2:]) and not torch.equal(noise[0], noise[1])


def test_scenes_of_other_roles_go_scene_by_scene() -> None:
    mixed = [SCENES[0], pair_of(SCENES[1], 9)]
    assert [clip.role for clip in clips_of(mixed)] == ["A", "B", "C", "D", "A", "C"]
    assert by_scene(mixed) == [0, 1, 2, 3, 4, 5] and by_scene(SCENES[:2]) == [0, 2, 4, 6, 1, 3, 5, 7]


# Features.


def test_features_equal_single_evaluations(lens: DiTLens) -> None:
    table = features(lens, SCENES, [1, 3], NoisePath(sampler_steps=4), pooling="tokens", batch_size=2)
    path = lens.invert(SCENES[2].clips, steps=4, solver="euler")
    _, cache = lens.run_with_cache(path, step=3, names_filter="blocks.5.hook_resid_post")
    captured = torch.from_numpy(table.where(scene=SCENES[2].id).cell(3, 5))
    torch.testing.assert_close(captured, cache["resid_post", 5].mean(1), rtol=0, atol=1e-5)
    assert table.clips.possible.tolist()[:4] == [True, True, False, False]
    assert table.clips.scene.tolist()[::4] == [scene.id for scene in SCENES]
    assert table.point.format(block=5) == "blocks.5.hook_resid_post" and set(table.sigmas) == {1, 3}


def test_what_is_fed_can_be_kept_beside_the_states(lens: DiTLens) -> None:
    recipe = Recipe(
        (Take.parse("hook_latent=none"), Take.parse("blocks.*.attn.hook_z=mean")), (3,), NoisePath(sampler_steps=4), 2
    )
    kept = capture(lens, SCENES, recipe)
    path = lens.invert(SCENES[2].clips, steps=4, solver="euler")
    fed = torch.from_numpy(kept["latent.none"].where(scene=SCENES[2].id).cell(3, 0))
    torch.testing.assert_close(fed, path.latent(3).flatten(1), rtol=0, atol=1e-5)
    assert kept["attn.z.mean"].point == "blocks.{block}.attn.hook_z"


def test_a_continuation_gives_the_first_half_clean_and_says_so(lens: DiTLens) -> None:
    table = features(lens, SCENES, [1, 3], NoisePath("continuation", 4), batch_size=2)
    clean = lens.encode(clips_of(SCENES))
    noise, sigma, cut = spliced_noise(clean, SCENES, 0), lens.schedule(4).sigmas[3], 3
    latent = clean.clone()
    latent[:, :, cut:] = (1 - sigma) * clean[:, :, cut:] + sigma * noise[:, :, cut:]
    time = torch.zeros(12, 5, 16)
    time[:, cut:] = 1000 * sigma
    _, cache = lens.run_with_cache(latent=latent, timestep=time.flatten(1), names_filter="blocks.2.hook_resid_post")
    by_frame = cache.grid("resid_post", 2).mean((2, 3)).flatten(1)[by_scene(SCENES)]
    captured = torch.from_numpy(table.cell(3, 2))
    torch.testing.assert_close(captured, by_frame, rtol=0, atol=1e-5)
    one_time = lens.run_with_cache(
        latent=latent, timestep=1000 * sigma, names_filter="blocks.2.hook_resid_post"
    )[1].grid("resid_post", 2).mean((2, 3)).flatten(1)[by_scene(SCENES)]  # fmt: skip
    assert (captured - one_time).abs().max() > 1e-3
    assert table.parts == 5


def test_unknown_path_is_refused() -> None:
    with pytest.raises(ValueError, match="inversion"):
        NoisePath("inversoin")  # pyright: ignore[reportArgumentType]


# Stores that questions share.


@pytest.mark.parametrize("kind", PATHS)
def test_a_store_gives_the_features_that_memory_does(lens: DiTLens, tmp_path: Path, kind: str) -> None:
    path = NoisePath(kind, 4)  # pyright: ignore[reportArgumentType]
    kept = StoreFolder(tmp_path, {"data": "these scenes"})
    scenes = [*SPLICED, pair_of(SCENES[0], 9)] if kind == "continuation" else SPLICED
    memory = features(lens, scenes, [1, 3], path, batch_size=2)
    stored = features(lens, scenes, [1, 3], path, batch_size=2, kept=kept)
    assert stored.clips.id.tolist() == memory.clips.id.tolist() and stored.sigmas == pytest.approx(memory.sigmas)
    for key, values in memory.cells.items():
        np.testing.assert_allclose(stored.cells[key], values, rtol=0, atol=1e-5)
    assert (stored.parts, stored.point, stored.name) == (memory.parts, memory.point, memory.name)


def test_what_was_captured_once_is_not_captured_again(
    lens: DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = StoreFolder(tmp_path, {"data": "these scenes"})
    path = NoisePath("noising", 4)
    whole = features(lens, SPLICED, [1, 3], path, kept=kept)
    monkeypatch.setattr("dit_lens.capture.stores.fill", lambda *_, **__: pytest.fail("captured again"))
    fewer = features(lens, SPLICED[2:4], [3], path, batch_size=3, kept=kept)
    np.testing.assert_array_equal(fewer.cell(3, 5), whole.where(scene=[s.id for s in SPLICED[2:4]]).cell(3, 5))
    with pytest.raises(pytest.fail.Exception, match="captured again"):
        features(lens, SPLICED, [3], NoisePath("noising", 4, seed=1), kept=kept)
    with pytest.raises(pytest.fail.Exception, match="captured again"):
        features(lens, SPLICED, [3], path, kept=StoreFolder(tmp_path, {"data": "others"}))


def test_the_clips_of_a_role_lie_together(lens: DiTLens) -> None:
    (fed,) = evaluations(lens, SPLICED[:2], [2], NoisePath("noising", 4)).values()
    latents = encode(lens.encode, SPLICED[:2])
    c = of_role(fed, "C").inputs["hidden_states"]
    (alone,) = evaluations(lens, SPLICED[1:2], [2], NoisePath("noising", 4)).values()
    torch.testing.assert_close(c[1], of_role(alone, "C").inputs["hidden_states"][0], rtol=0, atol=1e-5)
    assert len(latents) == 8


def test_features_of_every_block_are_of_the_video_stream_alone() -> None:
    """A family with a text stream beside it has a point of the same short name there, which a glob also matches."""
    pipeline, prompts = cogvideox()
    lens = DiTLens(pipeline, conditioning=Conditioning({"encoder_hidden_states": prompts["prompt_embeds"]}))
    names = [f"blocks.{block}.hook_resid_post" for block in range(lens.blocks)]
    beside = [point.name for point in lens.table.select("blocks.*.hook_resid_post", lens.name)]
    assert Collector(lens, [pooled()]).points == names and set(beside) > set(names)
    assert set(Collector(lens, [Take.parse("blocks.*.hook_resid_p*=mean")]).points) > set(beside)
