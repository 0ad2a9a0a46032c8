"""Names: globs, lists and predicates in forward order; unknown and absent ones say why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dit_lens.hook_points import HookPoint, Site, Table
from dit_lens.lens import DiTLens

NAMES = ["hook_embed", *(f"blocks.{i}.{name}" for i in range(3) for name in ("attn.hook_z", "hook_resid_post"))]


def handmade() -> Table:
    sites = {name: Site(name, "output") for name in NAMES}
    points = {name: HookPoint(name, "b n d", (site,), lambda raw: raw, None) for name, site in sites.items()}
    absent = {"blocks.*.attn.hook_pattern": "not traced", "blocks.*.text.*": "there is no text stream"}
    return Table(tuple(sites.values()), points, ("blocks.0", "blocks.1"), absent)


def names(wanted: str | list[str] | Callable[[str], bool]) -> list[str]:
    return [point.name for point in handmade().select(wanted, "handmade")]


def test_a_name_selects_itself_and_no_longer_name() -> None:
    assert names("hook_embed") == ["hook_embed"]
    with pytest.raises(KeyError):
        names("embed")


def test_a_glob_selects_all_that_match_in_forward_order() -> None:
    assert names("*") == NAMES
    assert names("blocks.*.attn.hook_z") == [f"blocks.{i}.attn.hook_z" for i in range(3)]
    assert names("blocks.[02].hook_*") == ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]


def test_a_list_comes_in_forward_order_and_once_each() -> None:
    assert names(["blocks.2.*", "hook_embed", "blocks.*.attn.hook_z"]) == [
        "hook_embed",
        "blocks.0.attn.hook_z",
        "blocks.1.attn.hook_z",
        "blocks.2.attn.hook_z",
        "blocks.2.hook_resid_post",
    ]


def test_a_predicate_selects_where_it_holds() -> None:
    assert names(lambda name: name.endswith("z") and "1" in name) == ["blocks.1.attn.hook_z"]


def test_an_unknown_name_is_told_the_nearest_and_the_model() -> None:
    with pytest.raises(KeyError, match=r"no hook point 'blocks.1.atn.hook_z' in handmade; did you mean 'blocks.1.attn"):
        names("blocks.1.atn.hook_z")


def test_one_unknown_name_in_a_list_is_enough() -> None:
    with pytest.raises(KeyError, match=r"no hook point 'blocks\.7\.hook_resid_post'"):
        names(["hook_embed", "blocks.7.hook_resid_post"])


def test_a_predicate_that_holds_nowhere_is_an_error_as_a_glob_is() -> None:
    with pytest.raises(KeyError):
        names("*hook_nothing")
    with pytest.raises(KeyError):
        names(lambda name: name.endswith("hook_nothing"))


@pytest.mark.parametrize("pattern", ["blocks.1.attn.hook_pattern", "blocks.*.attn.hook_pattern", "*hook_pattern"])
def test_an_absent_name_says_why(pattern: str) -> None:
    with pytest.raises(KeyError, match=r"is absent in handmade: not traced"):
        names(pattern)


def test_absence_is_told_per_name() -> None:
    with pytest.raises(KeyError, match="there is no text stream"):
        names("blocks.0.text.hook_q")


def test_a_model_lists_what_it_has_and_why_the_rest_is_absent(lens: DiTLens) -> None:
    table = lens.hook_points()
    present = table[table["absent because"] == ""]["name"].tolist()
    assert [point.name for point in lens.table.select(present, lens.name)] == present
    with pytest.raises(KeyError, match=r"no hook point 'blocks.3.atn.hook_z' in mini-wan-untrained; did you mean"):
        lens.table.select("blocks.3.atn.hook_z", lens.name)
    for row in table[table["absent because"] != ""].itertuples():
        with pytest.raises(KeyError, match="is absent in mini-wan-untrained"):
            lens.table.select(row.name, lens.name)
