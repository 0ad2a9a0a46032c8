"""Unknown names: the message says what was given, what there is, and the nearest of it."""

from __future__ import annotations

import pytest

from dit_lens.choices import check_choice, nearest


def test_a_known_name_comes_back() -> None:
    assert check_choice("heun", ["euler", "heun"], "solver") == "heun"


def test_an_unknown_name_is_told_all_options_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got solver 'huen' · expected one of euler, heun; did you mean 'heun'\?"):
        check_choice("huen", ["euler", "heun"], "solver")


def test_options_may_be_an_iterator() -> None:
    with pytest.raises(ValueError, match=r"euler, heun.*did you mean 'heun'"):
        check_choice("huen", iter(["euler", "heun"]), "solver")


def test_nothing_is_suggested_where_nothing_is_close() -> None:
    assert nearest("heun", ["heun2"]) == "; did you mean 'heun2'?"
    assert nearest("zzz", ["euler", "heun"]) == ""
