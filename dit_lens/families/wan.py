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
from dit_lens.hook_points import HookPoint, Site, Table

NAME = "wan"
TRANSFORMER = WanTransformer3DModel
TRAIN_TIMESTEPS = 1000
ATTENTION_GATE, MLP_GATE = 2, 5
ROOT = Site("", "inputs")
VELOCITY = Site("", "output")
NOT_YET = "not traced in this version"


def inputs(
    latent: Float[Tensor, "b c f h w"], timestep: Float[Tensor, "b *n"], conditioning: Mapping[str, Tensor]
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


def grid(transformer: WanTransformer3DModel, latent_shape: torch.Size) -> TokenGrid:
    """The token grid of a latent (b, c, f, h, w)."""
    return TokenGrid(
        *(size // patch for size, patch in zip(latent_shape[2:], transformer.config["patch_size"], strict=True))
    )


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


def block_path(block: int) -> str:
    """The module path of a block."""
    return f"blocks.{block}"


def hook_table(transformer: WanTransformer3DModel) -> Table:
    """Every hook point of this transformer."""
    points = [_latent(), _embed(transformer)]
    sites = [ROOT, points[-1].sites[-1]]
    for index, block in enumerate(transformer.blocks):
        block_sites = _block_sites(index)
        sites += block_sites.values()
        points += _block_points(f"blocks.{index}", block, block_sites)
    points += [_velocity(), _clean_estimate(transformer)]
    absent = {f"blocks.*.attn.hook_{name}": NOT_YET for name in ("rot_q", "rot_k", "pattern", "result")}
    absent |= {"hook_time_embed": NOT_YET, "blocks.*.mod.hook_*": NOT_YET}
    absent |= {"blocks.*.text.*": "Wan reads text by cross-attention; there is no text stream"}
    return Table((*sites, VELOCITY), {point.name: point for point in points}, absent)


def _latent() -> HookPoint:
    def write(new: Tensor, old: Tensor, root: tuple) -> tuple:
        return root[0], root[1] | {"hidden_states": new}

    return HookPoint("hook_latent", "b c f h w", (ROOT,), lambda root: root[1]["hidden_states"], write)


def _embed(transformer: WanTransformer3DModel) -> HookPoint:
    return HookPoint(
        "hook_embed",
        "b n d",
        (Site("patch_embedding", "output"),),
        lambda raw: rearrange(raw, "b d f h w -> b (f h w) d"),
        lambda new, old, raw: rearrange(new, "b (f h w) d -> b d f h w", f=raw.shape[2], h=raw.shape[3]),
    )


def _velocity() -> HookPoint:
    return HookPoint(
        "hook_velocity", "b c f h w", (VELOCITY,), lambda out: out[0], lambda new, old, out: (new, *out[1:])
    )


def _clean_estimate(transformer: WanTransformer3DModel) -> HookPoint:
    def read(root: tuple, out: tuple) -> Tensor:
        sigma, latent = root[1]["timestep"].float() / TRAIN_TIMESTEPS, root[1]["hidden_states"]
        if sigma.ndim == 2:  # a level for every token
            patches = dict(zip("pqr", transformer.config["patch_size"], strict=True))
            frames, rows = latent.shape[2] // patches["p"], latent.shape[3] // patches["q"]
            sigma = repeat(sigma, "b (f h w) -> b 1 (f p) (h q) (w r)", f=frames, h=rows, **patches)
        return latent - sigma.view(len(latent), 1, *(sigma.shape[2:] or (1, 1, 1))) * out[0]

    return HookPoint("hook_x0", "b c f h w", (ROOT, VELOCITY), read, None)


def _block_sites(index: int) -> dict[str, Site]:
    """Sites of a block in forward order, by short names."""
    path = f"blocks.{index}"
    sites = {"inputs": Site(path, "inputs")}
    for name, module, after in (("attn", "attn1", "hidden_states_0"), ("cross", "attn2", "hidden_states_1")):
        sites |= {
            f"{name}_v": Site(f"{path}.{module}.to_v", "output"),
            f"{name}_q": Site(f"{path}.{module}.norm_q", "output"),
            f"{name}_k": Site(f"{path}.{module}.norm_k", "output"),
            f"{name}_z": Site(f"{path}.{module}.to_out.0", "input"),
            f"{name}_out": Site(f"{path}.{module}", "output"),
            f"{name}_after": Site(path, "local", after),
        }
    return sites | {
        "mlp_pre": Site(f"{path}.ffn.net.0.proj", "output"),
        "mlp_post": Site(f"{path}.ffn.net.2", "input"),
        "mlp_out": Site(f"{path}.ffn", "output"),
        "mlp_after": Site(path, "local", "hidden_states_2"),
        "output": Site(path, "output"),
    }


def _block_points(path: str, block: Any, sites: dict[str, Site]) -> list[HookPoint]:
    def plain(name: str, axes: str, site: str) -> HookPoint:
        return HookPoint(f"{path}.{name}", axes, (sites[site],), lambda raw: raw, lambda new, old, raw: new)

    def per_head(name: str, axes: str, site: str, attention: Any) -> HookPoint:
        return HookPoint(
            f"{path}.{name}",
            axes,
            (sites[site],),
            lambda raw: rearrange(raw, "b n (k e) -> b n k e", k=attention.heads),
            lambda new, old, raw: rearrange(new, "b n k e -> b n (k e)"),
        )

    def gated(name: str, out: str, after: str, gate: int) -> HookPoint:
        def read(inputs: tuple, raw: Tensor, stream: Tensor) -> Tensor:
            return raw.float() * _gate(block, inputs[0][2], gate)

        def write(new: Tensor, old: Tensor, inputs: tuple, raw: Tensor, stream: Tensor) -> Tensor:
            return (stream.float() + (new - old)).type_as(stream)

        return HookPoint(f"{path}.{name}", "b n d", (sites["inputs"], sites[out], sites[after]), read, write)

    def write_stream(new: Tensor, old: Tensor, inputs: tuple) -> tuple:
        return (new, *inputs[0][1:]), inputs[1]

    stream = HookPoint(f"{path}.hook_resid_pre", "b n d", (sites["inputs"],), lambda inputs: inputs[0][0], write_stream)
    heads = [
        per_head(f"{name}.hook_{letter}", f"b {token} k e", f"{short}_{letter}", attention)
        for name, short, attention, text in (
            ("attn", "attn", block.attn1, "n"),
            ("cross_attn", "cross", block.attn2, "m"),
        )
        for letter, token in (("v", text), ("q", "n"), ("k", text), ("z", "n"))
    ]
    return [
        stream,
        *heads[:4],
        gated("hook_attn_out", "attn_out", "attn_after", ATTENTION_GATE),
        plain("hook_resid_mid_attn", "b n d", "attn_after"),
        *heads[4:],
        plain("hook_cross_attn_out", "b n d", "cross_out"),
        plain("hook_resid_mid_cross_attn", "b n d", "cross_after"),
        plain("mlp.hook_pre", "b n d_mlp", "mlp_pre"),
        plain("mlp.hook_post", "b n d_mlp", "mlp_post"),
        gated("hook_mlp_out", "mlp_out", "mlp_after", MLP_GATE),
        plain("hook_resid_post", "b n d", "output"),
    ]


def _gate(block: Any, modulation: Tensor, index: int) -> Float[Tensor, "b _ d"]:
    """A gate of the block, (b, 1, d), or (b, n, d) where each token has its own timestep."""
    table = block.scale_shift_table
    if modulation.ndim == 4:
        return (table.unsqueeze(0) + modulation.float())[:, :, index]
    return (table + modulation.float())[:, index : index + 1]
