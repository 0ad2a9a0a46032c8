"""Encoders of transformers: layers are what blocks put out, weights are all there or told, surprise by theorem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import reduce
from transformers import ResNetModel, VideoMAEForPreTraining, VideoMAEModel, VJEPA2Model

from dit_lens import baselines
from dit_lens.baselines import NotRunError
from dit_lens.baselines.preparing import Preparation
from dit_lens.baselines.texture import small_config as small_resnet
from dit_lens.baselines.videomae import reconstruction_error, targets
from dit_lens.baselines.videomae import small_config as small_videomae
from dit_lens.baselines.vjepa2 import predict, prediction_error
from dit_lens.baselines.vjepa2 import small_config as small_vjepa2
from dit_lens.baselines.windows import by_window, check_contexts
from dit_lens.clips import stack_frames
from dit_lens.toy.miniphys import MiniPhys

GIVEN, LENGTH = 8, 16


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return stack_frames(list(MiniPhys("test", 1, ["colour"])[0].clips))


@pytest.fixture
def mae(small: dict[str, Any]) -> Any:
    torch.manual_seed(3)  # another than the baselines'
    return VideoMAEForPreTraining(small["videomae"]).eval()


@pytest.fixture
def jepa(small: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    return VJEPA2Model(small["vjepa2"]).eval()


@pytest.fixture
def small() -> dict[str, Any]:
    """Configurations of the random encoders."""
    return {"videomae": small_videomae(), "vjepa2": small_vjepa2(), "resnet": small_resnet()}


def test_a_folder_gives_its_own_weights_and_layers_are_what_the_blocks_put_out(
    clips: np.ndarray, mae: Any, jepa: Any, tmp_path: Path
) -> None:
    jepa.save_pretrained(tmp_path / "jepa")
    mae.save_pretrained(tmp_path / "mae")
    for make, name, model, blocks in (
        (baselines.videomae, "mae", mae.videomae, mae.videomae.encoder.layer),
        (baselines.vjepa2, "jepa", jepa, jepa.encoder.layer),
    ):
        baseline = make(str(tmp_path / name), pooling="tokens")
        states = stream(model, blocks, Preparation(16, 64)(clips))
        expected = torch.stack([reduce(state, "b n d -> b d", "mean") for state in states], dim=1)
        features = baseline(clips)
        assert baseline.weights == str(tmp_path / name) and baseline.name.endswith(f", {name}")
        assert np.allclose(features, expected.numpy(), atol=1e-5)
        assert not np.allclose(features, make("random", pooling="tokens")(clips), atol=1e-2)


@torch.no_grad()
def stream(model: Any, blocks: Any, video: torch.Tensor) -> list[torch.Tensor]:
    """What the first block is given and what each puts out, by hooks."""
    first_inputs: list[Any] = []
    outputs: list[Any] = []
    blocks[0].register_forward_pre_hook(lambda _, inputs: first_inputs.append(inputs[0]))
    for block in blocks:
        block.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    model(video)
    return [*first_inputs, *(output[0] if isinstance(output, tuple) else output for output in outputs)]


def test_resnet_from_a_folder_reads_its_stages_at_224_pixels(
    clips: np.ndarray, small: dict[str, Any], tmp_path: Path
) -> None:
    model = ResNetModel(small["resnet"]).eval()
    model.save_pretrained(tmp_path)
    baseline = baselines.resnet(str(tmp_path))
    with torch.no_grad():
        last = model(Preparation(None, 224)(clips[:1, :2])[0]).pooler_output[..., 0, 0]
    assert baseline.layers[-1] == "stage 4" and baseline.sees == "all frames, 224 px"
    assert np.allclose(baseline(clips[:1, :2])[0, -1], last.flatten().numpy(), atol=1e-5)


def test_weights_that_are_not_there_or_not_all_there_are_told(small: dict[str, Any], tmp_path: Path) -> None:
    for make in (baselines.resnet, baselines.videomae, baselines.vjepa2, baselines.vjepa2_surprise):
        with pytest.raises(NotRunError, match=r"no weights at .*nowhere"):
            make(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotRunError, match=r"no weights at .*empty"):
        baselines.videomae(str(tmp_path / "empty"))
    VideoMAEModel(small["videomae"]).save_pretrained(tmp_path / "encoder")
    assert baselines.videomae(str(tmp_path / "encoder")).layers[-1] == "block 3"
    with pytest.raises(NotRunError, match=r"no weights for .* decoder"):
        baselines.videomae_surprise(str(tmp_path / "encoder"))


def test_random_weights_leave_the_random_state_alone_and_follow_their_seed(clips: np.ndarray) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, second = baselines.vjepa2(seed=0), baselines.vjepa2(seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert first.weights == "random initialisation, seed 0"
    assert not np.allclose(first(clips[:1]), second(clips[:1]), atol=1e-2)


def test_reconstruction_error_is_the_loss_that_the_model_was_trained_with(clips: np.ndarray, mae: Any) -> None:
    video = Preparation(16, 64)(clips)
    hidden = (torch.arange(128) >= 64).expand(1, -1)
    for normalised in (True, False):
        mae.config.norm_pix_loss = normalised
        losses = [mae(clip[None], bool_masked_pos=hidden).loss for clip in video]
        assert torch.allclose(reconstruction_error(mae, video, GIVEN), torch.stack(losses), rtol=1e-5)


def tiled(patch_of_frame: list[int]) -> torch.Tensor:
    """A video (1, 16, 3, 64, 64) every frame of which is one of a few patches, 4 × 4 times."""
    patches = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return patches[patch_of_frame].tile(1, 1, 4, 4)[None]


@torch.no_grad()
def test_a_reconstruction_that_is_right_has_no_error(mae: Any) -> None:
    known, surprising = tiled([0] * LENGTH), tiled([0] * GIVEN + [1] * (LENGTH - GIVEN))
    mae.decoder.head.weight.zero_()
    mae.decoder.head.bias.copy_(targets(mae.config, known)[0, -1])
    assert reconstruction_error(mae, known, GIVEN).item() < 1e-8
    assert reconstruction_error(mae, surprising, GIVEN).item() > 0.1
    # A model that says nothing errs by the variance of the target: one, up to the divisor of 512 pixels.
    mae.decoder.head.bias.zero_()
    assert reconstruction_error(mae, surprising, GIVEN).item() == pytest.approx(511 / 512, abs=1e-4)


@torch.no_grad()
def test_a_prediction_that_is_right_has_no_error(jepa: Any) -> None:
    # Where all patches are alike, attention has one value to give, and all tokens are one token.
    known, surprising = tiled([0] * LENGTH), tiled([0] * GIVEN + [1] * (LENGTH - GIVEN))
    state = jepa.encoder(known).last_hidden_state[0, 0]
    jepa.predictor.proj.weight.zero_()
    jepa.predictor.proj.bias.copy_(torch.nn.functional.layer_norm(state, state.shape))
    assert prediction_error(jepa, known, GIVEN).item() < 1e-5
    assert prediction_error(jepa, surprising, GIVEN).item() > 0.1


@torch.no_grad()
def test_the_prediction_has_not_seen_the_future_as_the_model_s_own_forward_has(clips: np.ndarray, jepa: Any) -> None:
    video, tokens = Preparation(16, 64)(clips[:1]), torch.arange(128)[None]
    changed = torch.cat([video[:, :GIVEN], video[:, GIVEN:].flip(1)], dim=1)
    masks = {"context_mask": [tokens[:, :64]], "target_mask": [tokens[:, 64:]]}
    stock = [jepa(video, **masks).predictor_output.last_hidden_state for video in (video, changed)]
    ours = [predict(jepa, video[:, :GIVEN], 128) for video in (video, changed)]
    assert ours[0].shape == stock[0].shape == (1, 64, 96)
    assert torch.equal(*ours) and not torch.allclose(*stock, atol=1e-7)
    # Told the same context, ours is the model's own predictor.
    context = jepa.encoder(video[:, :GIVEN]).last_hidden_state
    assert torch.equal(ours[0], jepa.predictor(context, masks["context_mask"], masks["target_mask"]).last_hidden_state)


def test_surprise_is_one_feature_the_mean_over_windows(clips: np.ndarray) -> None:
    for make in (baselines.videomae_surprise, baselines.vjepa2_surprise):
        score = make(contexts=(4, 8), stride=1)  # two windows in 17 frames
        surprise = score(clips)
        assert surprise.shape == (4, 2, 1) and score.layers == ("4 frames given", "8 frames given")
        first, last = (make(contexts=(4, 8))(clips[:, cut]) for cut in (slice(0, 16), slice(1, 17)))
        assert np.allclose(surprise, (first + last) / 2, atol=1e-5) and not np.allclose(first, last, atol=1e-5)
        with pytest.raises(ValueError, match="at least 16"):
            score(clips[:, :9])


def test_windows_begin_a_stride_apart_and_see_so_many_frames() -> None:
    asked: list[tuple[int, float, int]] = []

    def errors(video: torch.Tensor, context: int) -> torch.Tensor:
        asked.append((video.shape[1], float(video[0, 0, 0, 0, 0]), context))
        return video[:, 0, 0, 0, 0]

    frames = np.broadcast_to(np.arange(20, dtype=np.uint8)[None, :, None, None, None], (2, 20, 8, 8, 3))
    features = by_window(Preparation(None, 8), errors, (2, 4), 10, 5)(frames)
    first = [float(Preparation(None, 8)(frames)[0, start, 0, 0, 0]) for start in (0, 5, 10)]
    assert asked == [(10, start, context) for context in (2, 4) for start in first]
    assert features.shape == (2, 2, 3, 1) and np.allclose(features[..., 0], first)


@pytest.mark.parametrize("contexts", [(3,), (16,), (0,), ()])
def test_contexts_that_do_not_fit_are_told(contexts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected multiples of 2 between 2 and 14"):
        check_contexts(contexts, 16, 2)
