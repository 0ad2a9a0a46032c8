"""The laws hold in every family and dtype, and a family that is wrong about its model breaks the one it should."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from small_models import SMALL, WAN, build
from torch import Tensor

from benchmarks.laws import LAWS, loaded, table
from dit_lens import DiTLens, families, laws
from dit_lens.families import ltx, parts, wan
from dit_lens.hook_points import Table
from dit_lens.running import HookedTransformer

# These add writes to the stream in float32, whatever they are loaded in.
FLOAT32_INSIDE = ("wan", "wan_i2v", "wan22_i2v", "skyreels", "skyreels_i2v")


@pytest.mark.parametrize("name", SMALL)
def test_in_float64_nothing_but_the_model_s_own_casts_is_rounded(name: str) -> None:
    findings = laws.verify(HookedTransformer(loaded(build(name), torch.float64), name))
    worst = {law: max(f.deviation for f in findings if f.law == law) for law in LAWS}
    assert (worst["idle"], worst["identity"]) == (0, 0)
    assert worst["attention"] < 1e-13 and worst["between"] < 1e-13
    assert worst["sum"] < (1e-6 if name in FLOAT32_INSIDE else 1e-13)
    assert worst["heads"] < (1e-6 if name in (*FLOAT32_INSIDE, "mochi") else 1e-13)


@pytest.mark.parametrize("name", SMALL)
def test_in_bfloat16_the_laws_hold_and_single_writes_to_the_bit(name: str) -> None:
    model = HookedTransformer(loaded(build(name), torch.bfloat16), name)
    deviations = {finding.point: finding.deviation for finding in laws.verify(model) if finding.law == "sum"}
    stretches = list(laws.streams(list(model.table.points)))
    assert set(deviations) == {after for _, _, after in stretches}
    assert {after for _, writes, after in stretches if len(writes) == 1 and deviations[after]} == set()


def test_the_command_prints_a_row_for_each_model_and_dtype() -> None:
    head, rule, *rows = table(["wan", "mochi"], [torch.float32, torch.bfloat16])
    assert [row.split(" | ")[0] for row in rows] == ["| wan", "| wan", "| mochi", "| mochi"]
    assert [row.split(" | ")[2] for row in rows] == ["float32", "bfloat16"] * 2
    assert {row.split(" | ")[6] for row in rows} == {"0"}  # idle
    assert all(line.count("|") == head.count("|") for line in (rule, *rows))


# A family file that is wrong, in one way each.

NAME = "blocks.1.hook_attn_out"


def ungated(table: Table) -> Table:
    """Takes what attention puts out for what it adds to the stream."""
    return with_point(table, NAME, read=lambda inputs, raw, after: raw)


def later(table: Table) -> Table:
    """Takes the stream after cross-attention for the stream after self-attention: another label of a local variable."""
    site = table.points["blocks.1.hook_resid_mid_cross_attn"].sites
    return with_point(table, "blocks.1.hook_resid_mid_attn", sites=site)


def turned_heads(table: Table) -> Table:
    """Splits the width of z with heads last."""
    whole = table.laws[0]

    def read(*values: Any) -> Tensor:
        first_input, z = whole.read(*values)
        return torch.stack([first_input, z.flatten(2).unflatten(2, (z.shape[3], z.shape[2])).transpose(2, 3)])

    return replace(table, laws=(replace(whole, read=read), *table.laws[1:]))


def gate_named_otherwise(table: Table) -> Table:
    """Calls the gate of attention by a name that is not that of its write."""
    renamed = {name.replace("hook_gate_attn", "hook_gate_self"): point for name, point in table.points.items()}
    return replace(table, points={name: replace(point, name=name) for name, point in renamed.items()})


def in_place(table: Table) -> Table:
    """Changes what it reads."""
    return with_point(table, "blocks.1.mlp.hook_post", read=lambda raw: raw.mul_(1.01))


def divided(table: Table) -> Table:
    """Writes what was read after a division and a product, which round."""
    point = table.points["blocks.1.attn.hook_v"]
    assert point.write is not None
    write = point.write
    return with_point(table, point.name, write=lambda new, old, raw: write(3 * (new / 3), old, raw))


def misplaced(table: Table) -> Table:
    """Writes the text's keys with their tokens in another order."""
    point = table.points["blocks.0.cross_attn.hook_k"]
    assert point.write is not None
    write = point.write
    return with_point(table, point.name, write=lambda new, old, raw: write(new.flip(1), old, raw))


def with_point(table: Table, name: str, **changes: Any) -> Table:
    """The table with one point spelled otherwise."""
    return replace(table, points={**table.points, name: replace(table.points[name], **changes)})


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Table], Table]], None]:
    """Makes the family of LTX the only one known, its table put wrong."""

    def know(change: Callable[[Table], Table]) -> None:
        wrong = replace(ltx.FAMILY, hook_table=lambda transformer: change(ltx.hook_table(transformer)))
        monkeypatch.setattr(families, "FAMILIES", (wrong,))

    return know


MISTAKES = [
    (ungated, {"sum", "heads"}),
    (later, {"sum"}),
    (turned_heads, {"attention"}),
    (gate_named_otherwise, {"heads"}),
    (in_place, {"idle", "identity"}),
    (divided, {"identity"}),
    (misplaced, {"identity"}),
]


@pytest.mark.parametrize(("mistake", "broken"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_family_breaks_its_law_and_does_not_load(known: Any, mistake: Any, broken: set[str]) -> None:
    known(lambda table: table)
    DiTLens(transformer=build("ltx"))
    known(mistake)
    findings = laws.findings(HookedTransformer(build("ltx"), "small ltx"))
    assert {finding.law for finding in findings if not finding.holds} == broken
    with pytest.raises(ValueError, match=r"got .* off by .* laws broken\) · expected at most .* · verify=False skips"):
        DiTLens(transformer=build("ltx"))
    assert DiTLens(transformer=build("ltx"), verify=False).blocks == 3


class Adding(torch.nn.ModuleList):
    """Blocks whose loop adds something to one of their streams behind one of them."""

    behind: int
    stream: int | None

    def __iter__(self) -> Any:
        for number, block in enumerate(super().__iter__()):
            yield Ran(block, self.stream) if number == self.behind else block


@dataclass(frozen=True)
class Ran:
    """A block whose caller adds something to one of the streams that it puts out."""

    block: Any
    stream: int | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self.block(*args, **kwargs)
        if self.stream is None:
            return out + 0.01
        return tuple(x + 0.01 if i == self.stream else x for i, x in enumerate(out))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block, name)


@pytest.mark.parametrize(
    ("name", "stream", "behind", "point"),
    [
        ("ltx", None, 0, "blocks.1.hook_resid_pre"),
        ("ltx", None, 2, "blocks.2.hook_resid_post = input of norm_out"),
        ("cogvideox", 1, 1, "blocks.2.text.hook_resid_pre"),
        ("mochi", 0, 1, "blocks.2.hook_resid_pre"),
    ],
)
def test_what_is_added_between_blocks_unnamed_is_refused(name: str, stream: int, behind: int, point: str) -> None:
    model = HookedTransformer(build(name), name)
    laws.verify(model)
    blocks: Any = model.transformer.transformer_blocks
    blocks.__class__, blocks.behind, blocks.stream = Adding, behind, stream
    assert [(f.law, f.point) for f in laws.findings(model) if not f.holds] == [("between", point)]
    with pytest.raises(ValueError, match=rf"got {re.escape(point)} of {name} off by .* \(between;"):
        laws.verify(model)


def test_added_positions_are_named_and_counted() -> None:
    model = HookedTransformer(build("cogvideox_2b"), "small")
    assert (
        "hook_pos_embed" in model.table.points
        and "hook_pos_embed" in families.find(build("cogvideox")).hook_table(build("cogvideox")).absent
    )
    unnamed = {name: point for name, point in model.table.points.items() if name != "hook_pos_embed"}
    model.table = replace(model.table, points=unnamed)
    assert [(f.law, f.point) for f in laws.findings(model) if not f.holds] == [("between", "blocks.0.hook_resid_pre")]


def vace() -> Any:
    """A small Wan VACE, which adds hints of its own blocks between those of Wan; they are 0 before training."""
    torch.manual_seed(0)
    return WanVACETransformer3DModel(**WAN, vace_layers=[0, 2], vace_in_channels=4).eval().requires_grad_(False)


def test_wan_s_family_refuses_what_vace_adds_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def example(transformer: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        latent, inputs = wan.example(transformer, generator)
        return latent, inputs | {"control_hidden_states": latent.flip(2)}

    def inputs(transformer: Any, latent: Tensor, timestep: Tensor, conditioning: dict[str, Tensor]) -> dict[str, Any]:
        tensors = dict(conditioning)
        control = tensors.pop("control_hidden_states")
        return wan.call_arguments(transformer, latent, tensors) | {
            "timestep": timestep,
            "control_hidden_states": control,
        }

    overrides = {
        "example": example,
        "inputs": inputs,
        "hook_table": lambda transformer: wan.spelled(transformer, rows=-2),
    }
    family = replace(wan.FAMILY, transformer=WanVACETransformer3DModel, for_transformer=None, **overrides)
    monkeypatch.setattr(families, "FAMILIES", (family,))
    for silent in (True, False):
        transformer = vace()
        for block in transformer.vace_blocks:
            torch.nn.init.constant_(block.proj_out.weight, 0.0 if silent else 0.01)
            torch.nn.init.constant_(block.proj_out.bias, 0.0)
        if silent:
            DiTLens(transformer=transformer)
            continue
        broken = {f.point for f in laws.findings(HookedTransformer(transformer, "vace")) if not f.holds}
        assert broken == {"blocks.1.hook_resid_pre", "blocks.2.hook_resid_post = input of norm_out"}
        with pytest.raises(ValueError, match=r"off by .* \(between; 2 of"):
            DiTLens(transformer=transformer)


def test_a_forgotten_mask_breaks_the_law_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "masked", lambda logits, mask: logits)
    with pytest.raises(ValueError, match=r"got blocks\.\d\.cross_attn: softmax\(q k\) v = z"):
        DiTLens(transformer=build("ltx"))


def test_what_is_no_number_breaks_a_law() -> None:
    assert not laws.Finding("sum", "x", float("nan"), 1.0).holds
    assert laws.Finding("sum", "x", 1.0, 1.0).holds and not laws.Finding("sum", "x", 1.1, 1.0).holds
