"""LTX-2: the hook points of `LTX2VideoTransformer3DModel`. Its video stream is the main one.

Two streams, video (n tokens) and audio (a tokens), pass through a block in this order: self-attention of each,
cross-attention of each to text, audio to video (`hook_a2v_out`, queries of video and keys of audio), video to audio
(`audio.hook_v2a_out`), MLP of each. Both cross-modal layers read the streams before either has written.
In LTX-2.3 a gate multiplies each head's z (`hook_head_gate`), and text cross-attention is modulated and gated.

Audio is conditioning, not sampled: a clean audio latent at timestep 0, as pipelines treat a user's audio track. Hooks
on a pipeline's own calls act on these as they are, where audio has the noise level of the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers import LTX2VideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx2 import AudioVisualModelOutput
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
import dit_lens.families.ltx_parts as ltx_parts
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import ROOT, VELOCITY, check_text_encoders, for_clips
from dit_lens.families.family import Family
from dit_lens.families.final_layer import by_table
from dit_lens.families.ltx_parts import root_points
from dit_lens.families.ltx_streams import Layer, Modulation, Stream, modulations
from dit_lens.families.parts import argument, item, point
from dit_lens.hook_points import HookPoint, Site, Table

CONDITIONING = (
    "encoder_hidden_states",
    "audio_encoder_hidden_states",
    "encoder_attention_mask",
    "audio_hidden_states",
)
SHIFT_SCALE_GATE = "shift_{0}", "scale_{0}", "gate_{0}"
CROSS_MODAL = ("a2v.", "v2a.", "hook_a2v", "hook_v2a", "hook_resid_mid_a2v", "hook_resid_mid_v2a")
ATTENDED = tuple(f"attn.hook_{name}" for name in ("q", "k", "rot_q", "rot_k", "pattern", "head_gate"))
FRAME_RATE = 24.0  # the default of `LTX2Pipeline.__call__`

SHIFTS = {"base_image_seq_len": 1024, "max_image_seq_len": 4096, "base_shift": 0.95, "max_shift": 2.05}


def example(transformer: LTX2VideoTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 3, 2), 5 audio tokens, and text with one token masked: to verify a model with."""
    config = transformer.config
    widths = [config["caption_channels"]] * 2
    if not config["use_prompt_embeddings"]:
        widths = [config["cross_attention_dim"], config["audio_cross_attention_dim"]]
    latent = torch.randn(1, config["in_channels"], 2, 3, 2, generator=generator)
    text, audio_text = (torch.randn(1, 3, width, generator=generator) for width in widths)
    return latent, {
        "encoder_hidden_states": text,
        "audio_encoder_hidden_states": audio_text,
        "encoder_attention_mask": torch.tensor([[0, 1, 1]]),
        "audio_hidden_states": torch.randn(1, 5, config["audio_in_channels"], generator=generator),
    }


def inputs(
    transformer: LTX2VideoTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, "b *n"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Audio is clean, at timestep 0; a single audio token is repeated for the length of the clip.
    """
    tensors = for_clips(conditioning, CONDITIONING, len(latent))
    frames, height, width = latent.shape[2:]
    audio = tensors["audio_hidden_states"]
    if audio.shape[1] == 1:
        audio = audio.expand(-1, audio_tokens(transformer, frames), -1)
    level = timestep.flatten(1).amax(1) if timestep.ndim > 1 else timestep
    return tensors | {
        "hidden_states": ltx_parts.pack(latent),
        "audio_hidden_states": audio,
        "timestep": timestep,
        "sigma": level,
        "audio_timestep": torch.zeros_like(level),
        "audio_sigma": torch.zeros_like(level),
        "audio_encoder_attention_mask": tensors["encoder_attention_mask"],
        "num_frames": frames,
        "height": height,
        "width": width,
        "fps": FRAME_RATE,
        "audio_num_frames": audio.shape[1],
        "use_cross_timestep": True,
        "return_dict": False,
    }


def audio_tokens(transformer: LTX2VideoTransformer3DModel, frames: int) -> int:
    """The number of audio tokens that last as long as so many latent frames, computed as in `LTX2Pipeline`."""
    config = transformer.config
    seconds = ((frames - 1) * config["vae_scale_factors"][0] + 1) / FRAME_RATE
    return round(seconds * config["audio_sampling_rate"] / config["audio_hop_length"] / config["audio_scale_factor"])


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The prompt embeddings (1, 1024, ...) of `LTX2Pipeline.__call__`, and the mean audio latent (1, 1, c) for silence.

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    check_text_encoders(pipeline, CONDITIONING)
    raw, mask, _, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=1024)
    side = getattr(pipeline.tokenizer, "padding_side", "left")
    text, audio_text, mask = pipeline.connectors(raw, mask, padding_side=side)
    silence = torch.zeros(1, 1, pipeline.transformer.config["audio_in_channels"])
    return Conditioning(dict(zip(CONDITIONING, (text, audio_text, mask, silence), strict=True)), prompt)


def passed_over(transformer: LTX2VideoTransformer3DModel, inputs: Mapping[str, Any], name: str) -> bool:
    """Whether a call of the transformer skips a hook point.

    For guidance, `LTX2Pipeline` makes calls without the cross-modal layers, and calls in which some blocks skip
    attention and pass their values on unmixed (spatio-temporal guidance).
    """
    _, block, *rest = name.split(".") if name.startswith("blocks.") else ("", "-1")
    short = ".".join(rest).removeprefix("audio.")
    if inputs.get("isolate_modalities") and short.startswith(CROSS_MODAL):
        return True
    mask, perturbed = inputs.get("perturbation_mask"), inputs.get("spatio_temporal_guidance_blocks") or ()
    skipped = transformer.config["perturbed_attn"] and int(block) in perturbed and (mask is None or not mask.any())
    return skipped and short in ATTENDED


def hook_table(transformer: LTX2VideoTransformer3DModel) -> Table:
    """Every hook point of this transformer."""
    embed, audio_embed = Site("proj_in", "output"), Site("audio_proj_in", "output")
    time, audio_time = Site("time_embed.emb", "output"), Site("audio_time_embed.emb", "output")
    latent, velocity, clean = root_points()
    points = [
        latent,
        point("audio.hook_latent", "b a c", ROOT, argument("audio_hidden_states")),
        point("hook_embed", "b n d", embed),
        point("audio.hook_embed", "b a d", audio_embed),
        ltx_parts.time_embedding("hook_time_embed", time),
        ltx_parts.time_embedding("audio.hook_time_embed", audio_time),
    ]
    sites, laws = [ROOT, embed, audio_embed, time, audio_time], []
    paths = conventions.block_paths(transformer)
    for index, path in enumerate(paths):
        block = _block(f"blocks.{index}", path, transformer.get_submodule(path), transformer.config)
        sites += block.sites
        points += block.points
        laws += block.laws
    points += [velocity, clean, point("audio.hook_velocity", "b a c", VELOCITY, item(1))]
    streams = "hook_resid_pre", "audio.hook_resid_pre"
    named = {point.name: point for point in points}
    table = Table((*sites, VELOCITY), named, paths, _absent(transformer), streams, tuple(laws))
    return by_table(table, transformer.scale_shift_table, *ltx_parts.TOKEN)


def _absent(transformer: LTX2VideoTransformer3DModel) -> dict[str, str]:
    config = transformer.config
    absent = {
        "blocks.*.cross_attn.hook_rot_?": "no rotary: see hook_q and hook_k",
        "blocks.*.text.*": "LTX-2 reads text by cross-attention; there is no text stream",
    }
    if not (config["gated_attn"] or config["audio_gated_attn"]):
        absent["blocks.*.hook_head_gate"] = "heads are not gated in this model"
    if not (config["cross_attn_mod"] or config["audio_cross_attn_mod"]):
        absent["blocks.*.mod.hook_*_cross_attn*"] = "text cross-attention is neither modulated nor gated in this model"
    elif not config["use_prompt_adaln_single"]:
        absent["blocks.*.mod.hook_*_cross_attn_keys"] = "keys of text are modulated by a fixed table in this model"
    return absent


def _block(home: str, path: str, block: Any, config: Mapping[str, Any]) -> Layer:
    video = Stream(home, path, block, _modulation(block, config, "", "a2v"))
    audio_modulation = _modulation(block, config, "audio_", "v2a")
    audio = Stream(f"{home}.audio", path, block, audio_modulation, prefix="audio_", token="a")
    layers = (
        video.attention("attn", "attn1", 0),
        audio.attention("attn", "audio_attn1", 0),
        video.attention("cross_attn", "attn2", 1, keys="m", rotary=False),
        audio.attention("cross_attn", "audio_attn2", 1, keys="m", rotary=False),
        video.attention("a2v", "audio_to_video_attn", 2, keys="a"),
        audio.attention("v2a", "video_to_audio_attn", 2, keys="n"),
        video.mlp(3),
        audio.mlp(3),
    )
    output = Site(path, "output")
    entries = [*video.entry(), *audio.entry()]
    exits = [
        point(f"{home}.hook_resid_post", "b n d", output, item(0)),
        point(f"{home}.audio.hook_resid_post", "b a d", output, item(1)),
    ]
    return Layer(
        (video.inputs, *(site for layer in layers for site in layer.sites), output),
        [*entries, *_points(layers), *exits],
        [law for layer in layers for law in layer.laws],
    )


def _points(layers: Iterable[Layer]) -> list[HookPoint]:
    return [point for layer in layers for point in layer.points]


def _modulation(block: Any, config: Mapping[str, Any], prefix: str, write: str) -> dict[str, Modulation]:
    """Shifts, scales and gates of one stream, by name; `..._keys` modulate the keys and values of a layer.

    Args:
        prefix: "" for video, "audio_" for audio.
        write: the cross-modal layer that writes to the stream, "a2v" or "v2a".
    """
    suffix = "_audio" if prefix else ""
    layers = ("attn", "mlp", "cross_attn") if config[f"{prefix}cross_attn_mod"] else ("attn", "mlp")
    names = tuple(name.format(layer) for layer in layers for name in SHIFT_SCALE_GATE)
    named = modulations(block, f"{prefix}scale_shift_table", f"temb{suffix}", names)
    if block.cross_attn_adaln and config["use_prompt_adaln_single"]:
        keys = "shift_cross_attn_keys", "scale_cross_attn_keys"
        named |= modulations(block, f"{prefix}prompt_scale_shift_table", f"temb_prompt{suffix}", keys)
    return named | {name: value for name, value in _cross_modal(block).items() if write in name}


def _cross_modal(block: Any) -> dict[str, Modulation]:
    """Modulations of both cross-modal layers: table rows 0 and 1 are for a2v, 2 and 3 for v2a, and 4 is the gate."""
    video, audio = "video_a2v_cross_attn_scale_shift_table", "audio_a2v_cross_attn_scale_shift_table"
    of_video = "scale_a2v", "shift_a2v", "scale_v2a_keys", "shift_v2a_keys"
    of_audio = "scale_a2v_keys", "shift_a2v_keys", "scale_v2a", "shift_v2a"
    return {
        **modulations(block, video, "temb_ca_scale_shift", of_video),
        **modulations(block, audio, "temb_ca_audio_scale_shift", of_audio),
        **modulations(block, video, "temb_ca_gate", ("gate_a2v",), first=4),
        **modulations(block, audio, "temb_ca_audio_gate", ("gate_v2a",), first=4),
    }


FAMILY = Family(
    name="ltx2",
    transformer=LTX2VideoTransformer3DModel,
    conditioning=CONDITIONING,
    output=AudioVisualModelOutput,
    time_by_token=True,
    passed_over=passed_over,
    example=example,
    inputs=inputs,
    input_dtype=ltx_parts.input_dtype,
    velocity=ltx_parts.velocity,
    grid=ltx_parts.grid,
    decode=ltx_parts.decode,
    hook_table=hook_table,
    check_pipeline=ltx_parts.check_pipeline,
    schedule_arguments=partial(ltx_parts.schedule_arguments, shifts=SHIFTS),
    encode_prompt=encode_prompt,
)
