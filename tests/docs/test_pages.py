"""The documentation: what pages link to is there, and what commands write is up to date."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
    *(ROOT / "enl_detectron2").rglob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
    *(ROOT / "experiments").rglob("*.md"),
]
# Without inline code and code blocks, whose brackets are no links.
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
FILE = re.compile(
    r"(?<![\w/.-])(?:configs|tools|benchmarks|experiments|examples|docs|demo)/[\w/.-]+\.\w+"
)


def name(path):
    return str(path.relative_to(ROOT))


def anchors(page):
    """The headings' names in links, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(text)
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(CODE.sub("", page.read_text())):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


# The changelog names what there was, too.
CURRENT = [p for p in PAGES if p.parent in (ROOT, ROOT / "docs") and p.name != "CHANGELOG.md"]


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_files_that_commands_name_are_there(page):
    for file in FILE.findall(page.read_text()):
        assert (ROOT / file).exists() or "NAME" in file, file


def test_configuration_keys_are_up_to_date():
    """Otherwise: python docs/make_configuration_keys.py."""
    path = ROOT / "docs/make_configuration_keys.py"
    spec = importlib.util.spec_from_file_location("make_configuration_keys", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page()


def test_the_page_of_systems_is_short():
    text = (ROOT / "projects_readme.md").read_text()
    start, end = text.index("<!-- systems:"), text.index("<!-- systems end -->")
    assert len((text[:start] + text[end:]).split()) <= 1200
