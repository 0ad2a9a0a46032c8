"""Wan 2.1 text-to-video: how `WanTransformer3DModel` spells the vocabulary.

The local variables `hidden_states_{0,1,2}` of `WanTransformerBlock.forward` are the stream after self-attention,
cross-attention and MLP; writing one reaches every later reader. What self-attention and MLP add to the stream is
their output times a gate from the block's modulation (adaLN), in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.families.parts import (
    Attention,
    Part,
    added,
    argument,
    item,
    pattern,
    pattern_law,
    point,
    read_only,
    result_law,
    results,
    rotated,
    split_heads,
)
from dit_lens.hook_points import HookPoint, Site, Table

NAME = "wan"
TRANSFORMER = WanTransformer3DModel
CONDITIONING = ("encoder_hidden_states",)
ROOT = Site("", "inputs")
VELOCITY = Site("", "output")
MODULATIONS = ("shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp")
MODULATION = argument("temb", 2)


def example(transformer: WanTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 4, 4 patches) and conditioning, to verify a model with."""
    patch, config = transformer.config["patch_size"], transformer.config
    shape = (1, config["in_channels"], 2 * patch[0], 2 * patch[1], 2 * patch[2])
    text = torch.randn(1, 3, config["text_dim"], generator=generator)
    return torch.randn(shape, generator=generator), {"encoder_hidden_states": text}


def inputs(
    transformer: WanTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, "b *n"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip."""
    text = conditioning["encoder_hidden_states"]
    text = text.expand(len(latent), -1, -1) if len(text) == 1 else text
    return {"hidden_states": latent, "timestep": timestep, "encoder_hidden_states": text, "return_dict": False}


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for a Wan whose extra parts would be left out without a word."""
    if getattr(pipeline, "transformer_2", None) is not None:
        raise TypeError("got a Wan 2.2 pipeline of two experts · expected one transformer · it is not handled yet")
    channels, latents = pipeline.transformer.config["in_channels"], pipeline.vae.config["z_dim"]
    if channels != latents:
        raise TypeError(
            f"got a transformer of {channels} input channels over latents of {latents} (image-conditioned)"
            " · expected text-to-video · it is not handled yet"
        )


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The embedding (1, 512, text_dim) that `WanPipeline.__call__` feeds for a prompt by default.

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    if getattr(pipeline, "text_encoder", None) is None:
        raise ValueError(
            "got a pipeline without text encoder · expected one, or conditioning="
            "Conditioning({'encoder_hidden_states': embedding}) · DiTLens.from_pretrained(folder) finds the folder's"
            " empty_prompt.safetensors"
        )
    embedding, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    return Conditioning({"encoder_hidden_states": embedding}, prompt)


def input_dtype(transformer: WanTransformer3DModel) -> torch.dtype:
    """The dtype latents are fed in; some parameters stay float32 in a bfloat16 model, the patch embedding does not."""
    return transformer.patch_embedding.weight.dtype


def to_timestep(sigma: float) -> float:
    """What a Wan is fed at a noise level."""
    return 1000 * sigma


def to_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep fed."""
    return timestep.float() / 1000


def velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The output as noise - data: it is that already."""
    return output[0]


def grid(transformer: WanTransformer3DModel, inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of an evaluation's latent."""
    shape = inputs["hidden_states"].shape[2:]
    return TokenGrid(*(size // patch for size, patch in zip(shape, transformer.config["patch_size"], strict=True)))


def encode(vae: Any, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b c f h w"]:
    """The normalised latent: the mode of the posterior, per channel (z - mean) / std, as `WanPipeline` expects."""
    mean, std = _statistics(vae)
    latent = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
    return (latent - mean.to(latent)) / std.to(latent)


def decode(vae: Any, latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 F H W"]:
    """The video in about [-1, 1]."""
    mean, std = _statistics(vae)
    return vae.decode((latent * std.to(latent) + mean.to(latent)).to(vae.device, vae.dtype)).sample.float()


def _statistics(vae: Any) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(s).view(-1, 1, 1, 1) for s in (vae.config.latents_mean, vae.config.latents_std))


def hook_table(transformer: WanTransformer3DModel) -> Table:
    """Every hook point of this transformer."""
    embed = Site("patch_embedding", "output")
    time = Site("condition_embedder.time_embedder", "output")
    laws: list[HookPoint] = []
    points = [
        point("hook_latent", "b c f h w", ROOT, argument("hidden_states")),
        point("hook_embed", "b n d", embed, EMBEDDED),
        point("hook_time_embed", "b d", time),
    ]
    sites = [ROOT, embed, time]
    transformer_blocks: Any = transformer.blocks
    for index, block in enumerate(transformer_blocks):
        path = f"blocks.{index}"
        attentions = {
            "attn": Attention(f"{path}.attn", f"{path}.attn1", block.attn1, block.attn1.heads),
            "cross": Attention(f"{path}.cross_attn", f"{path}.attn2", block.attn2, block.attn2.heads, keys="m"),
        }
        named = _block_sites(path, attentions)
        sites += named.values()
        points += _block_points(path, block, attentions, named)
        for short, module in (("attn", block.attn1), ("cross", block.attn2)):
            ends = named[f"{short}_z"], named[f"{short}_out"]
            laws += [
                pattern_law(attentions[short]),
                result_law(attentions[short].name, *ends, module.to_out[0], module.heads),
            ]
    points += [point("hook_velocity", "b c f h w", VELOCITY, item(0)), _clean_estimate(transformer)]
    absent = {f"blocks.*.cross_attn.hook_{name}": "no rotary: see hook_q and hook_k" for name in ("rot_q", "rot_k")}
    absent |= {"blocks.*.text.*": "Wan reads text by cross-attention; there is no text stream"}
    blocks = tuple(f"blocks.{index}" for index in range(len(transformer_blocks)))
    return Table((*sites, VELOCITY), {point.name: point for point in points}, blocks, absent, laws=tuple(laws))


EMBEDDED = Part(
    lambda raw: rearrange(raw, "b d f h w -> b (f h w) d"),
    lambda new, raw: rearrange(new, "b (f h w) d -> b d f h w", f=raw.shape[2], h=raw.shape[3]),
)


def _clean_estimate(transformer: WanTransformer3DModel) -> HookPoint:
    def read(root: tuple, out: tuple) -> Tensor:
        sigma, latent = to_sigma(root[1]["timestep"]), root[1]["hidden_states"]
        if sigma.ndim == 2:  # a level for every token
            patches = dict(zip("pqr", transformer.config["patch_size"], strict=True))
            frames, rows = latent.shape[2] // patches["p"], latent.shape[3] // patches["q"]
            sigma = repeat(sigma, "b (f h w) -> b 1 (f p) (h q) (w r)", f=frames, h=rows, **patches)
        return latent - sigma.view(len(latent), 1, *(sigma.shape[2:] or (1, 1, 1))) * out[0]

    return read_only("hook_x0", "b c f h w", (ROOT, VELOCITY), read)


def _block_sites(path: str, attentions: Mapping[str, Attention]) -> dict[str, Site]:
    """Sites of a block in forward order, by short names."""
    sites = {"inputs": Site(path, "inputs")}
    for name, after in (("attn", "hidden_states_0"), ("cross", "hidden_states_1")):
        attention = attentions[name]
        sites |= {
            f"{name}_processor": attention.processor,
            f"{name}_v": Site(f"{attention.path}.to_v", "output"),
            f"{name}_q": Site(f"{attention.path}.norm_q", "output"),
            f"{name}_k": Site(f"{attention.path}.norm_k", "output"),
            f"{name}_call": attention.call,
            f"{name}_mixed": attention.mixed,
            f"{name}_z": Site(f"{attention.path}.to_out.0", "input"),
            f"{name}_out": Site(f"{attention.path}", "output"),
            f"{name}_after": Site(path, "local", after),
        }
    return sites | {
        "mlp_pre": Site(f"{path}.ffn.net.0.proj", "output"),
        "mlp_post": Site(f"{path}.ffn.net.2", "input"),
        "mlp_out": Site(f"{path}.ffn", "output"),
        "mlp_after": Site(path, "local", "hidden_states_2"),
        "output": Site(path, "output"),
    }


def _block_points(
    path: str, block: Any, attentions: Mapping[str, Attention], sites: Mapping[str, Site]
) -> list[HookPoint]:
    def gated(name: str, out: str, after: str, gate: str) -> HookPoint:
        def read(inputs: tuple, raw: Tensor) -> Tensor:
            return raw.float() * _modulation(block, MODULATION.get(inputs), gate, keep=True)

        return added(f"{path}.{name}", (sites["inputs"], sites[out]), read, sites[after])

    return [
        point(f"{path}.hook_resid_pre", "b n d", sites["inputs"], argument("hidden_states", 0)),
        *(_modulation_point(path, block, name, sites["inputs"]) for name in MODULATIONS),
        *_attention_points(attentions["attn"], block.attn1, sites, "attn"),
        gated("hook_attn_out", "attn_out", "attn_after", "gate_attn"),
        point(f"{path}.hook_resid_mid_attn", "b n d", sites["attn_after"]),
        *_attention_points(attentions["cross"], block.attn2, sites, "cross"),
        point(f"{path}.hook_cross_attn_out", "b n d", sites["cross_out"]),
        point(f"{path}.hook_resid_mid_cross_attn", "b n d", sites["cross_after"]),
        point(f"{path}.mlp.hook_pre", "b n d_mlp", sites["mlp_pre"]),
        point(f"{path}.mlp.hook_post", "b n d_mlp", sites["mlp_post"]),
        gated("hook_mlp_out", "mlp_out", "mlp_after", "gate_mlp"),
        point(f"{path}.hook_resid_post", "b n d", sites["output"]),
    ]


def _attention_points(attention: Attention, module: Any, sites: Mapping[str, Site], short: str) -> list[HookPoint]:
    split = split_heads(attention.heads)
    axis = {"q": attention.queries, "k": attention.keys, "v": attention.keys, "z": attention.queries}

    def spelled(letter: str) -> HookPoint:
        name = f"{attention.name}.hook_{letter}"
        return point(name, f"b {axis[letter]} k e", sites[f"{short}_{letter}"], split)

    return [
        *(spelled(letter) for letter in "vqk"),
        *(rotated(attention) if short == "attn" else ()),
        pattern(attention),
        spelled("z"),
        *results(attention.name, sites[f"{short}_z"], sites[f"{short}_out"], module.to_out[0], attention.heads),
    ]


def _modulation_point(path: str, block: Any, name: str, inputs: Site) -> HookPoint:
    """A shift, scale or gate of the block, (b, d) or (b, n, d); written into what the block is told of time."""

    def write(new: Tensor, old: Tensor, values: tuple) -> tuple:
        told = MODULATION.get(values).clone()
        told[..., MODULATIONS.index(name), :] += new - old
        return MODULATION.put(told, values)

    def read(values: tuple) -> Tensor:
        return _modulation(block, MODULATION.get(values), name)

    return HookPoint(f"{path}.mod.hook_{name}", "b d", (inputs,), read, write)


def _modulation(block: Any, told: Tensor, name: str, keep: bool = False) -> Float[Tensor, "b *_ d"]:
    """A modulation of the block in float32: (b, d), (b, 1, d) to `keep` the token axis, or (b, n, d) by token."""
    table, index = block.scale_shift_table, MODULATIONS.index(name)
    values = (table.unsqueeze(0) if told.ndim == 4 else table) + told.float()
    chosen = values[..., index, :]
    return chosen.unsqueeze(1) if keep and told.ndim == 3 else chosen
