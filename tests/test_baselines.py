"""Baselines: one contract, what each can and cannot see, and changes of frames."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score

from dit_lens import baselines, stats
from dit_lens.baselines import Baseline, MatchedNoise, NotRunError
from dit_lens.baselines.preparing import Preparation, spread
from dit_lens.clips import Scene, stack_frames
from dit_lens.probing import estimator
from dit_lens.toy.miniphys import SPLICE, MiniPhys

LINES = ("pixels", "pixels+moments", "flow", "resnet=random", "videomae=random", "vjepa2=random")
CHANGED = ("videomae=random+moments", "vjepa2=random+still", "vjepa2=random+shuffled")


@pytest.fixture(scope="module")
def crossed() -> list[Scene]:
    return MiniPhys("test", 6, ["colour", "inertia", "shape"])[:]


@pytest.fixture(scope="module")
def clips(crossed: list[Scene]) -> np.ndarray:
    return np.concatenate([stack_frames(list(quadruplet.clips)) for quadruplet in crossed])


def load(line: str) -> Baseline:
    if line.startswith("flow"):
        pytest.importorskip("cv2", reason="the extra `baselines` is not installed")
    return baselines.load(line)


@pytest.mark.parametrize("line", [*LINES, *CHANGED])
def test_features_are_one_array_by_layer_the_same_each_time_and_in_any_company(line: str, clips: np.ndarray) -> None:
    baseline = load(line)
    features = baseline(clips)
    assert features.dtype == np.float32 and features.shape[:2] == (len(clips), len(baseline.layers))
    assert np.isfinite(features).all() and features.std(0).max() > 0
    assert np.array_equal(load(line)(clips), features)
    assert np.allclose(baseline(clips[5:6]), features[5:6], atol=1e-5)


@pytest.mark.parametrize("line", LINES)
def test_brightness_is_found_by_all_that_see_it(line: str) -> None:
    rng, labels = np.random.default_rng(0), np.arange(40) % 2 == 0
    clips = rng.integers(40, 120, (40, 16, 32, 32, 3)) + 100 * labels[:, None, None, None, None]
    if line == "flow":  # which sees motion alone: noise that stands still, or does not
        clips[labels] = clips[labels][:, :1]
    features = load(line)(clips.astype(np.uint8))
    for layer in range(features.shape[1]):
        assert cross_val_score(estimator(), features[:, layer], labels, cv=5).mean() > 0.9


def test_what_is_the_same_for_all_clips_is_at_chance(clips: np.ndarray) -> None:
    features = baselines.constant("prompt", np.arange(5.0))(clips)
    assert (features == np.arange(5.0)).all() and features.shape == (len(clips), 1, 5)
    labels = np.arange(len(clips)) % 4 < 2
    assert cross_val_score(estimator(), features[:, 0], labels, cv=3).mean() == 0.5


def interactions(line: str, clips: np.ndarray) -> np.ndarray:
    """Largest interaction by layer, in standard deviations of the layer's features."""
    features = load(line)(clips).astype(np.float64)
    quadruplets = features.reshape(-1, 4, *features.shape[1:])
    return np.abs(stats.interaction(quadruplets)).max((0, 2)) / features.std((0, 2))


@pytest.mark.parametrize("line", ["pixels", "resnet=random", "vjepa2=random+still", "resnet=random+shuffled"])
def test_what_reads_frames_one_by_one_cannot_tell_crossed_clips_apart(line: str, clips: np.ndarray) -> None:
    assert interactions(line, clips).max() < 1e-4


@pytest.mark.parametrize("line", ["pixels+moments", "flow", "resnet=random+moments", "vjepa2=random+shuffled"])
def test_what_compares_frames_has_an_interaction(line: str, clips: np.ndarray) -> None:
    assert interactions(line, clips).max() > 1e-2


@pytest.mark.parametrize("line", ["videomae=random", "vjepa2=random"])
def test_tubelets_keep_to_their_half_and_attention_does_not(line: str, clips: np.ndarray) -> None:
    frames = spread(17, 16)
    assert all((first < SPLICE) == (last < SPLICE) for first, last in frames.reshape(-1, 2))
    assert 16 in frames and 0 in frames and len(set(frames)) == 16
    embedding, *blocks = interactions(line, clips)
    assert embedding < 1e-6 and min(blocks) > 3 * embedding and min(blocks) > 1e-6


def test_pooling_over_tokens_is_the_mean_of_the_frames_side_by_side(clips: np.ndarray) -> None:
    for line, times in (("pixels", 17), ("resnet=random", 17), ("videomae=random", 8), ("vjepa2=random", 8)):
        apart, together = baselines.load(line)(clips[:3]), baselines.load(line, pooling="tokens")(clips[:3])
        assert np.allclose(apart.reshape(*apart.shape[:2], times, -1).mean(2), together, atol=1e-5)


def square(shifts: list[tuple[int, int]], size: int = 32) -> np.ndarray:
    """A clip (1, F, size, size, 3) of a square with texture, at these places (row, column) relative to the middle."""
    texture = np.random.default_rng(0).integers(100, 255, (10, 10, 1))
    clip = np.zeros((1, len(shifts), size, size, 3), np.uint8)
    for frame, (row, column) in enumerate(shifts):
        clip[0, frame, 11 + row : 21 + row, 11 + column : 21 + column] = texture
    return clip


@pytest.mark.parametrize(("step", "direction"), [((0, 1), 0), ((1, 1), 1), ((1, 0), 2), ((0, -1), 4), ((-1, 0), 6)])
def test_flow_points_where_a_square_goes(step: tuple[int, int], direction: int) -> None:
    clip = square([(i * step[0], i * step[1]) for i in range(-3, 4)])
    towards = load("flow")(clip)[0, 0].reshape(6, -1)[:, :14]  # the rest is the width of the finer grid
    assert (towards[:, :8].argmax(1) == direction).all() and np.allclose(towards[:, 8:].sum(1), 1)
    still = load("flow")(square([(0, 0)] * 3))[0, 0].reshape(2, -1)[:, :14]
    assert np.allclose(still[:, :8], 0) and np.allclose(still[:, 8], 1)


def test_flow_on_a_grid_says_where(clips: np.ndarray) -> None:
    clip = square([(-8, -8), (-8, -7)])
    cells = load("flow")(clip)[0, 1].reshape(16, 14)[:, :8].sum(1).reshape(4, 4)
    assert cells[:2, :2].sum() > 20 * cells[2:, 2:].sum() and cells[0, 0] > 0


def test_moments_by_hand_and_blind_to_order(clips: np.ndarray) -> None:
    video = np.zeros((1, 4, 8, 8, 3), np.uint8)
    video[0, 3] = 255
    values = np.array([-1.0, -1.0, -1.0, 1.0])
    mean, deviation = values.mean(), values.std()
    third = np.cbrt(((values - mean) ** 3).mean())
    features = baselines.load("pixels+moments")(video)
    assert features.shape == (1, 4, 3 * 192)
    # Narrow layers are filled up with zeros before moments are taken of them.
    by_moment = features[0, 0].reshape(3, 192)
    assert np.allclose(by_moment[:, :3], np.array([[mean], [deviation], [third]])) and not by_moment[:, 3:].any()
    shuffle = baselines.load("resnet=random+shuffled+moments")
    assert np.allclose(shuffle(clips[:2]), baselines.load("resnet=random+moments")(clips[:2]), atol=1e-4)


def test_matched_noise_has_the_mean_and_covariance_asked_for_and_no_more() -> None:
    rng = np.random.default_rng(0)
    features = rng.exponential(size=(60, 6)) @ rng.standard_normal((6, 6)) + 5
    drawn = MatchedNoise.of(features).draw(40_000, rng)
    scale = np.sqrt(np.diag(np.cov(features.T)))
    assert np.abs((drawn.mean(0) - features.mean(0)) / scale).max() < 0.03
    assert np.abs((np.cov(drawn.T) - np.cov(features.T)) / np.outer(scale, scale)).max() < 0.04
    skew = [np.abs((((x - x.mean(0)) / x.std(0)) ** 3).mean(0)).max() for x in (features, drawn)]
    assert skew[0] > 0.5 and skew[1] < 0.1
    wide = MatchedNoise.of(rng.standard_normal((10, 50)))
    assert np.linalg.matrix_rank(wide.draw(40, rng) - wide.mean) == 9  # the covariance of ten clips has rank nine
    with pytest.raises(ValueError, match="at least 2"):
        MatchedNoise.of(features[:1])


def test_a_still_shows_one_frame_and_a_shuffle_all_of_them(clips: np.ndarray) -> None:
    assert (baselines.still(3)(clips) == clips[:, [3]]).all() and baselines.still()(clips).shape == clips.shape
    once, again, reseeded = (baselines.shuffled(seed)(clips) for seed in (0, 0, 1))
    assert np.array_equal(once, again) and not np.array_equal(once, reseeded)
    assert np.array_equal(np.sort(once, axis=1), np.sort(clips, axis=1)) and not np.array_equal(once, clips)


def test_a_tint_is_a_label_of_colour_alone(crossed: list[Scene]) -> None:
    video = crossed[0]
    pair, change = baselines.tint_pair(video), baselines.tint_change(video)
    assert (
        [clip.possible for clip in pair.clips] == [clip.possible for clip in change.clips] == [True, True, False, False]
    )
    for clear, warm in ((pair["A"], pair["C"]), (pair["B"], pair["D"])):
        assert np.array_equal(clear.frames[..., 0], warm.frames[..., 0])  # red, and with it all motion, is as it was
        assert (clear.frames[..., 2] > warm.frames[..., 2]).mean() > 0.9
    a, b, c, d = (clip.frames for clip in change.clips)
    assert np.array_equal(c, np.concatenate([a[:SPLICE], b[SPLICE:]]))
    assert np.array_equal(d, np.concatenate([b[:SPLICE], a[SPLICE:]])) and not np.array_equal(c, a)
    assert len({pair.id, change.id, video.id}) == 3


def test_frames_are_resized_and_normalised_as_encoders_were_trained() -> None:
    grey = np.full((1, 4, 32, 32, 3), 128, np.uint8)
    video = Preparation(2, 64)(grey)
    assert video.shape == (1, 2, 3, 64, 64) and Preparation(2, 64).sees == "2 frames, 64 px"
    expected = (128 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.allclose(video[0, 0, :, 5, 5], expected, atol=1e-5)
    fine = np.zeros((1, 1, 64, 64, 3), np.uint8)
    fine[..., ::2, :] = 255  # columns one pixel wide: without antialiasing, half the size would be all white or black
    assert np.ptp(Preparation(None, 32)(fine)[0, 0, 0, 4:-4, 4:-4].numpy()) < 0.5


def test_without_opencv_the_row_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(NotRunError, match=r"dit-lens\[baselines\]"):
        baselines.load("flow")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("vjepa", "did you mean 'vjepa2'"),
        ("vjepa2", "=FOLDER, =HUB_ID or =random"),
        ("pixels=random", "expected pixels"),
        ("pixels+shufled", "did you mean 'shuffled'"),
    ],
)
def test_a_line_that_is_none_is_told(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        baselines.load(line)


def test_what_is_not_run_has_a_reason() -> None:
    named = baselines.not_run(["vjepa2=random", "videomae=/some/folder+moments", "pixels+moments"])
    assert "facebook/vjepa2-vitl-fpc64-256" in named and "MCG-NJU/videomae-base" not in named
    assert {"V-JEPA", "V-JEPA 2.1", "VideoMAE V2"} < set(named) and all(named.values())


def test_frames_of_another_kind_and_layers_too_few_are_told(clips: np.ndarray) -> None:
    with pytest.raises(ValueError, match="stack_frames"):
        baselines.load("pixels")(clips[0])
    with pytest.raises(ValueError, match="expected uint8"):
        baselines.load("pixels")(clips / 255)
    with pytest.raises(ValueError, match="2 layers"):
        Baseline("odd", ("one", "two"), lambda frames: np.zeros((len(frames), 1, 1, 3)))(clips)
