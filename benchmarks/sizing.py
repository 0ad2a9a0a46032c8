"""What questions cost on released models: `python -m benchmarks.sizing [--tflops 400]`.

Tokens, weights and FLOPs of one evaluation at the released size, computed from the configs (no weights are read); then
evaluations, GPU-hours and disk of questions at their default size on the 360 clips of IntPhys (90 scenes of four).

FLOPs count matrix products, two for each multiplication: a weight of a block is used once for every token that it is
applied to (of the video, the text or the sound, or once for each clip), and attention takes 4 x queries x keys x width.
`tests/test_sizing.py` compares this with what torch counts in a run. GPU-hours assume a sustained rate; most
kernels reach 40 per cent of a card's dense bfloat16 peak (400 of 989 TFLOP/s on an H100). Measure yours by one
evaluation, as every question does before it begins.

Sizes are those of the model cards and of diffusers' pipelines; configs are those of the released folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch

from analyses.command import header
from dit_lens.studies.options import LEVELS, SHARE, Size

CLIPS, OF_A_SCENE, SAMPLER_STEPS, MODELS = 360, 4, 50, 2  # IntPhys; the model in question and its random twin
QUESTIONS = ("probe_blocks", "patch_residual", "patch_heads", "ablate_blocks", "surprise")
# Which tokens a weight is applied to, by parts of its name; those of the video otherwise.
TEXT = ("attn2.to_k", "attn2.to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context")
ONCE = ("norm1.linear", "norm2.linear", "norm1_context")
SOUND = ("audio",)


@dataclass(frozen=True)
class Release:
    """A released model at its released size.

    Attributes:
        transformer: its class in diffusers; `config` are the values that differ from the class's defaults.
        size: frames, height and width of a clip.
        stride: frames, rows and columns of pixels to a token (autoencoder x patch).
        text, sound: tokens beside those of the video.
        joint: whether text and video attend together; otherwise the video attends to the text in a second attention.
        experts: transformers of which one runs at a time.
    """

    transformer: str
    config: Mapping[str, Any]
    size: tuple[int, int, int]
    stride: tuple[int, int, int]
    text: int
    sound: int = 0
    joint: bool = False
    experts: int = 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of tokens."""
        (frames, height, width), (in_time, rows, columns) = self.size, self.stride
        return (frames - 1) // in_time + 1, height // rows, width // columns

    @property
    def tokens(self) -> int:
        """Tokens of a clip."""
        frames, rows, columns = self.grid
        return frames * rows * columns


WAN_1B = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
RELEASES = {
    "Wan 2.1 1.3B": Release("WanTransformer3DModel", WAN_1B, (81, 480, 832), (4, 16, 16), 512),
    "Wan 2.1 14B": Release("WanTransformer3DModel", {}, (81, 720, 1280), (4, 16, 16), 512),
    "Wan 2.2 A14B": Release("WanTransformer3DModel", {}, (81, 720, 1280), (4, 16, 16), 512, experts=2),
    "CogVideoX-5B": Release(
        "CogVideoXTransformer3DModel",
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        (49, 480, 720), (4, 16, 16), 226, joint=True,
    ),
    "LTX-2": Release("LTX2VideoTransformer3DModel", {}, (121, 512, 768), (8, 32, 32), 1024, sound=126),
    "HunyuanVideo 1.5": Release(
        "HunyuanVideo15Transformer3DModel", {}, (121, 480, 848), (4, 16, 16), 1256, joint=True
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """One evaluation of one clip.

    Attributes:
        parameters: of all experts.
        flops: of the blocks.
        blocks, heads, width: of the transformer.
    """

    parameters: int
    flops: float
    blocks: int
    heads: int
    width: int

    @property
    def gib(self) -> float:
        """GiB of weights in bfloat16."""
        return 2 * self.parameters / 2**30


def cost(release: Release) -> Cost:
    """The cost of an evaluation, by a transformer without weights."""
    with torch.device("meta"):
        model: Any = getattr(diffusers, release.transformer)(**release.config)
    blocks = getattr(model, "blocks", None) or model.transformer_blocks
    applied = dict.fromkeys((release.tokens, release.text, release.sound, 1), 0)
    for name, parameter in blocks.named_parameters():
        if parameter.ndim == 2:
            applied[_tokens(name, release)] += parameter.numel()
    linear = sum(2.0 * tokens * weights for tokens, weights in applied.items())
    heads = model.config.num_attention_heads
    width, depth = heads * model.config.attention_head_dim, len(blocks)
    parameters = release.experts * sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, linear + depth * attention(release, width), depth, heads, width)


def attention(release: Release, width: int) -> float:
    """FLOPs of the attention products of one block (those with sound left out, which has few tokens)."""
    video = release.tokens
    if release.joint:
        return 4.0 * (video + release.text) ** 2 * width
    return 4.0 * width * (video**2 + video * release.text)


def _tokens(name: str, release: Release) -> int:
    if any(part in name for part in SOUND):
        return release.sound
    if any(part in name for part in ONCE):
        return 1
    # In CogVideoX one set of weights serves both; its text is counted with the video.
    return release.text if any(part in name for part in TEXT) else release.tokens


def evaluations(question: str, release: Release, of: Cost) -> float:
    """Evaluations of one clip for a question at default size, of all its models (see `dit_lens.studies.price`)."""
    study_type, _ = header(question)
    places = 1 if study_type.ONE_PLACE else len(LEVELS)
    study = replace(
        study_type(), path="inversion", sampler_steps=SAMPLER_STEPS, read_at=LEVELS[:places], controls=("random",)
    )
    scenes = CLIPS // OF_A_SCENE
    train = round(SHARE * scenes)
    size = Size(of.blocks, of.heads, train, scenes - train, OF_A_SCENE, places)
    return MODELS * (CLIPS * (SAMPLER_STEPS + places) + size.test * study.per_test_scene(size))


def disk(release: Release, of: Cost) -> float:
    """Bytes of the states that probes read: the mean of each latent frame after every block, of all clips."""
    return 4.0 * CLIPS * len(LEVELS) * of.blocks * of.width * release.grid[0]


def main() -> None:
    """Prints both tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tflops", type=float, default=400.0, help="sustained TFLOP/s of the card")
    rate = 1e12 * options.parse_args().tflops
    costs = {name: cost(release) for name, release in RELEASES.items()}
    print(f"{'model':18}{'frames x pixels':>17}{'tokens':>9}{'B params':>10}{'GiB bf16':>10}{'TFLOP':>9}{'s/eval':>8}")
    for name, of in costs.items():
        frames, height, width = RELEASES[name].size
        size = f"{frames}x{height}x{width}"
        print(
            f"{name:18}{size:>17}{RELEASES[name].tokens:>9}{of.parameters / 1e9:>10.1f}{of.gib:>10.1f}"
            f"{of.flops / 1e12:>9.0f}{of.flops / rate:>8.2f}"
        )
    print(f"\nGPU-hours (thousands of evaluations) on {CLIPS} clips, {MODELS} models; GB of states per model")
    print(f"{'model':18}{''.join(f'{question:>20}' for question in QUESTIONS)}{'GB':>8}")
    for name, of in costs.items():
        counts = [evaluations(question, RELEASES[name], of) for question in QUESTIONS]
        cells = [f"{count * of.flops / rate / 3600:,.0f} ({count / 1e3:,.0f}k)" for count in counts]
        print(f"{name:18}{''.join(f'{cell:>20}' for cell in cells)}{disk(RELEASES[name], of) / 1e9:>8.2f}")


if __name__ == "__main__":
    main()
