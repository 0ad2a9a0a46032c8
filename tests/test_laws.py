"""The laws hold in every family and dtype, and a family that is wrong about its model breaks the one it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from small_models import SMALL, build
from torch import Tensor

from benchmarks.laws import LAWS, loaded, table
from dit_lens import DiTLens, families, laws
from dit_lens.families import ltx, parts
from dit_lens.hook_points import Table
from dit_lens.running import HookedTransformer

# These add writes to the stream in float32, whatever they are loaded in.
FLOAT32_INSIDE = ("wan", "wan_i2v", "wan22_i2v", "skyreels", "skyreels_i2v")


@pytest.mark.parametrize("name", SMALL)
def test_in_float64_nothing_but_the_model_s_own_casts_is_rounded(name: str) -> None:
    found = laws.verify(HookedTransformer(loaded(build(name), torch.float64), name))
    worst = {law: max(f.deviation for f in found if f.law == law) for law in LAWS}
    assert (worst["idle"], worst["identity"]) == (0, 0)
    assert worst["attention"] < 1e-13
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
        own, z = whole.read(*values)
        return torch.stack([own, z.flatten(2).unflatten(2, (z.shape[3], z.shape[2])).transpose(2, 3)])

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
        wrong = ModuleType("wrong")
        vars(wrong).update(vars(ltx), hook_table=lambda transformer: change(ltx.hook_table(transformer)))
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
    found = laws.findings(HookedTransformer(build("ltx"), "small ltx"))
    assert {finding.law for finding in found if not finding.holds} == broken
    with pytest.raises(ValueError, match=r"got .* off by .* laws broken\) · expected at most .* · verify=False skips"):
        DiTLens(transformer=build("ltx"))
    assert DiTLens(transformer=build("ltx"), verify=False).blocks == 3


def test_a_forgotten_mask_breaks_the_law_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "masked", lambda logits, mask: logits)
    with pytest.raises(ValueError, match=r"got blocks\.\d\.cross_attn: softmax\(q k\) v = z"):
        DiTLens(transformer=build("ltx"))


def test_what_is_no_number_breaks_a_law() -> None:
    assert not laws.Finding("sum", "x", float("nan"), 1.0).holds
    assert laws.Finding("sum", "x", 1.0, 1.0).holds and not laws.Finding("sum", "x", 1.1, 1.0).holds
