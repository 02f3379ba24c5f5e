"""The documents name files, links and addresses that exist, and README works on a package index."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOME = SETTINGS["project"]["urls"]["Homepage"]
PAGES = sorted(page for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks") for page in folder.glob("*.md"))
SHIPPED = tuple(SETTINGS["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])

LINK = re.compile(r"\]\(([^()\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?:onnxcake|recipes|examples|tests|docs|benchmarks|docker|\.ci)/[\w./-]+")


def _text(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file in this repository and the anchor that each link leads to."""
    raw = HOME.replace("github.com", "raw.githubusercontent.com")
    for target in LINK.findall(_text(page)):
        place, _, anchor = target.partition("#")
        for start in (f"{HOME}/blob/main/", f"{HOME}/tree/main/", f"{raw}/main/"):
            if place.startswith(start):
                yield ROOT / place.removeprefix(start), anchor
                break
        else:
            if not re.match(r"[a-z]+:", place):
                yield (page.parent / place if place else page), anchor


def _paths(page: Path) -> set[str]:
    """Return the paths of this repository that a page names in code type."""
    named = {PATH.fullmatch(words) for code in CODE.findall(_text(page)) for words in code.split()}
    return {match.group() for match in named if match}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target, anchor in _links(page):
        assert target.exists(), f"{page.name}: {target} does not exist"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{page.name}: {target.name} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_exist(page: Path) -> None:
    assert [path for path in sorted(_paths(page)) if not (ROOT / path).exists()] == []


def test_links_of_the_readme_work_outside_the_repository() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [target for target in LINK.findall(text) if not target.startswith("https://")] == []
    assert len(list(_links(ROOT / "README.md"))) > 10  # the repository's address is that of pyproject.toml


def test_every_project_address_is_in_the_repository() -> None:
    urls = SETTINGS["project"]["urls"].values()
    assert all(url.startswith(HOME) for url in urls)
    assert f"repository-code: {HOME}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_source_distribution_holds_what_the_documents_name() -> None:
    assert [entry for entry in SHIPPED if not (ROOT / entry.lstrip("/")).exists()] == []
    named = {"/" + str(target.resolve().relative_to(ROOT)) for page in PAGES for target, _ in _links(page)}
    named |= {"/" + path for page in PAGES for path in _paths(page)}
    assert [path for path in sorted(named) if not path.startswith(SHIPPED)] == []


def test_a_section_of_the_readme_fits_one_screen() -> None:
    sections = re.split(r"^## ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {
        section.splitlines()[0]: len(section.splitlines()) for section in sections if section.count("\n") > 45
    } == {}


def test_the_glossary_is_short() -> None:
    rows = re.findall(
        r"^\| (?!term |-)(.+?) \|", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert 0 < len(rows) <= 25
    assert rows == sorted(rows, key=str.lower)
