"""The README is short, its first example runs, and links between pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analyses import command

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def broken(page: Path, text: str) -> list[str]:
    """Links of a page to files that are not there."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    return [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    assert not broken(page, page.read_text())
    assert broken(page, "[there](no/such/page.md)") == ["no/such/page.md"]  # the control


def test_the_readme_is_read_in_four_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)]+)\)", (ROOT / "README.md").read_text()))
    assert linked == {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"}


def test_every_question_is_explained_in_full_under_its_own_words() -> None:
    sections = re.findall(r"^### (\w+)\n\n(.+?)\n\n\*\*Method", (ROOT / "docs/questions.md").read_text(), re.M | re.S)
    asked = {name: command.header(name)[1].splitlines()[0] for name in command.questions()}
    assert {name: " ".join(question.split()) for name, question in sections} == asked


@pytest.mark.slow
def test_the_first_example_runs() -> None:
    first = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first is not None
    names: dict[str, object] = {}
    exec(compile(first[1], "README.md", "exec"), names)
    frames = names["frames"]
    assert getattr(frames, "shape", None) == (1, 17, 32, 32, 3) and str(getattr(frames, "dtype", "")) == "uint8"
