"""A transformer of two blocks small enough to be worked out on paper, and its family.

A token has three features (a, b, marker); the marker is 0 in the first frame, 1 in the second, and nothing writes it.
With weights set by `set_by_hand`, a block does this, every number a short decimal:

    head 0 mixes a evenly and writes it to b; head 1 mixes b, a quarter from frame 0 and three quarters from frame 1,
    and writes it to a; the output projection adds 0.1 to a; the gate is `gates[0]` + sigma;
    the MLP has hidden units max(a - b, 0), which writes to b, and max(b, 0), which writes to a; its gate is
    `gates[1]` + sigma.

The velocity is (a - b, 2 b, marker).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from dit_lens.axes import TokenGrid
from dit_lens.families.family import Family
from dit_lens.families.parts import added, argument, item, point, read_only, results, split_heads
from dit_lens.hook_points import HookPoint, Site, Table

HEADS, WIDTH, EVENLY = 2, 3, 3.0
GATES = ((-0.3, 0.0), (0.0, -0.1))  # of attention and MLP, by block


class Attention(nn.Module):
    """Two heads of width 1, without rotary."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, HEADS) for _ in "qkv")
        self.to_out = nn.Linear(HEADS, WIDTH)

    def forward(self, hidden_states: Tensor) -> Tensor:
        q, k, v = self.to_q(hidden_states), self.to_k(hidden_states), self.to_v(hidden_states)
        pattern = torch.einsum("bnk,bmk->bknm", q, k).softmax(-1)
        return self.to_out(torch.einsum("bknm,bmk->bnk", pattern, v))


class Block(nn.Module):
    """Attention and an MLP, each with a gate that time moves."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2), nn.ReLU(), nn.Linear(2, WIDTH))
        self.gates = nn.Parameter(torch.zeros(2))

    def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
        gates = self.gates + temb[:, None, None]
        hidden_states = hidden_states + gates[..., :1] * self.attn(hidden_states)
        hidden_states = hidden_states + gates[..., 1:] * self.mlp(hidden_states)
        return hidden_states


class MicroDiT(ModelMixin, ConfigMixin):
    """The whole: patches of one value, two blocks, a linear read-out."""

    @register_to_config
    def __init__(self, in_channels: int = WIDTH, num_attention_heads: int = HEADS) -> None:
        super().__init__()
        self.embed, self.proj_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.blocks: Any = nn.ModuleList(Block() for _ in GATES)

    def forward(self, hidden_states: Tensor, timestep: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        tokens = self.embed(rearrange(hidden_states, "b c f h w -> b (f h w) c"))
        for block in self.blocks:
            tokens = block(tokens, timestep.to(tokens))
        frames, rows = hidden_states.shape[2:4]
        return (rearrange(self.proj_out(tokens), "b (f h w) c -> b c f h w", f=frames, h=rows),)


@torch.no_grad()
def set_by_hand(model: MicroDiT) -> MicroDiT:
    """The model in float64 with the weights that the module's docstring tells."""
    for parameter in model.double().parameters():
        parameter.zero_()
    model.embed.weight.copy_(torch.eye(WIDTH))
    model.proj_out.weight.copy_(torch.tensor([[1, -1, 0], [0, 2, 0], [0, 0, 1]]))
    for block, gates in zip(model.blocks, GATES, strict=True):
        block.gates.copy_(torch.tensor(gates, dtype=torch.float64))
        block.attn.to_q.bias[1] = torch.tensor(EVENLY, dtype=torch.float64).log()  # e^(log 3 * marker): 1 to 3
        block.attn.to_k.weight[1, 2] = 1
        block.attn.to_v.weight.copy_(torch.tensor([[1, 0, 0], [0, 1, 0]]))
        block.attn.to_out.weight.copy_(torch.tensor([[0, 1], [1, 0], [0, 0]]))
        block.attn.to_out.bias[0] = torch.tensor(0.1, dtype=torch.float64)
        block.mlp[0].weight.copy_(torch.tensor([[1, -1, 0], [0, 1, 0]]))
        block.mlp[2].weight.copy_(torch.tensor([[0, 1], [1, 0], [0, 0]]))
    return model


# The family: how the micro DiT spells the vocabulary (see dit_lens.families).

ROOT, VELOCITY = Site("", "inputs"), Site("", "output")


def example(transformer: MicroDiT, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    return torch.randn(1, WIDTH, 2, 3, 2, generator=generator, dtype=torch.float64), {}


def inputs(transformer: MicroDiT, latent: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]) -> dict:
    return {"hidden_states": latent, "timestep": timestep, "return_dict": False}


def input_dtype(transformer: MicroDiT) -> torch.dtype:
    return transformer.embed.weight.dtype


def to_timestep(sigma: float) -> float:
    return sigma


def to_sigma(timestep: Tensor) -> Tensor:
    return timestep


def velocity(inputs: Mapping[str, Any], output: tuple) -> Tensor:
    return output[0]


def grid(transformer: MicroDiT, inputs: Mapping[str, Any]) -> TokenGrid:
    return TokenGrid(*inputs["hidden_states"].shape[2:])


def hook_table(transformer: MicroDiT) -> Table:
    embed = Site("embed", "output")
    points = [point("hook_latent", "b c f h w", ROOT, argument("hidden_states")), point("hook_embed", "b n d", embed)]
    sites = [ROOT, embed]
    for index, block in enumerate(transformer.blocks):
        inside = _sites(f"blocks.{index}")
        points += _points(f"blocks.{index}", block, inside)
        sites += inside.values()
    points.append(point("hook_velocity", "b c f h w", VELOCITY, item(0)))
    paths = tuple(f"blocks.{index}" for index in range(len(transformer.blocks)))
    return Table((*sites, VELOCITY), {point.name: point for point in points}, paths)


def _sites(path: str) -> dict[str, Site]:
    return {
        "inputs": Site(path, "inputs"),
        "z": Site(f"{path}.attn.to_out", "input"),
        "attn": Site(f"{path}.attn", "output"),
        "mid": Site(path, "local", "hidden_states_0"),
        "post": Site(f"{path}.mlp.2", "input"),
        "mlp": Site(f"{path}.mlp", "output"),
        "output": Site(path, "output"),
    }


def _points(path: str, block: Any, sites: Mapping[str, Site]) -> list[HookPoint]:
    def opened(name: str, gate: Tensor) -> HookPoint:
        def read(inputs: tuple) -> Tensor:
            return (gate + argument("temb", 1).get(inputs))[:, None].expand(-1, WIDTH)

        return read_only(f"{path}.mod.hook_gate_{name}", "b d", (sites["inputs"],), read)

    def gated(name: str, out: str, after: str, gate: Tensor) -> HookPoint:
        def read(inputs: tuple, raw: Tensor) -> Tensor:
            return raw * (gate + argument("temb", 1).get(inputs)[:, None, None])

        return added(f"{path}.{name}", (sites["inputs"], sites[out]), read, sites[after])

    return [
        point(f"{path}.hook_resid_pre", "b n d", sites["inputs"], argument("hidden_states", 0)),
        opened("attn", block.gates[0]),
        opened("mlp", block.gates[1]),
        point(f"{path}.attn.hook_z", "b n k e", sites["z"], split_heads(HEADS)),
        *results(f"{path}.attn", sites["z"], sites["attn"], block.attn.to_out, HEADS),
        gated("hook_attn_out", "attn", "mid", block.gates[0]),
        point(f"{path}.hook_resid_mid_attn", "b n d", sites["mid"]),
        point(f"{path}.mlp.hook_post", "b n d_mlp", sites["post"]),
        gated("hook_mlp_out", "mlp", "output", block.gates[1]),
        point(f"{path}.hook_resid_post", "b n d", sites["output"]),
    ]


FAMILY = Family(
    name="micro",
    transformer=MicroDiT,
    conditioning=(),
    example=example,
    inputs=inputs,
    input_dtype=input_dtype,
    hook_table=hook_table,
    to_timestep=to_timestep,
    to_sigma=to_sigma,
    velocity=velocity,
    grid=grid,
)
