"""The documentation speaks of what there is: links, places in code, commands, public names."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import romzarr

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
PAGES = [path for path in WRITTEN if "generated" not in path.parts]
MOST_FILES = 5


def generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = generator()


def text_of(path: Path) -> str:
    """The page without its code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page):
    made = {DOCS / target for target in GENERATE.COPIED.values()}
    made |= {DOCS / "generated" / name for name in ("commands.md", "rooms.md", "rooms.svg")}
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file = link.partition("#")[0]
        path = (page.parent / file).resolve()
        assert not file or path.exists() or path in made, link


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_target_of_make_exists(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)", page.read_text(encoding="utf-8"))) <= targets


@pytest.mark.parametrize("name", ["promises.md", "architecture.md"])
def test_every_test_that_is_named_exists(name):
    named = re.findall(r"`(tests/[\w/.]+)`", (DOCS / name).read_text(encoding="utf-8"))
    assert named
    for each in named:
        assert (ROOT / each).exists(), each


# --- the glossary -------------------------------------------------------------------------


def glossary() -> list[list[str]]:
    rows = re.findall(r"^\| (.*) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def test_the_glossary_has_its_words_in_order():
    words = [row[0].lower() for row in glossary()]
    assert 55 <= len(words) <= 75
    assert words == sorted(words)


@pytest.mark.parametrize("row", glossary(), ids=lambda row: row[0])
def test_every_word_is_at_home_in_the_code(row):
    (place,) = re.findall(r"`([\w.]+)`", row[-1])
    name = place if place.startswith("romzarr_flows") else f"romzarr.{place}"
    modules = GENERATE.modules()
    if name in modules:
        return
    module, _, attribute = name.rpartition(".")
    tree = ast.parse(modules[module].read_text(encoding="utf-8"))
    assigned = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
    names = {node.name for node in tree.body if hasattr(node, "name")}
    assert attribute in names | {target.id for target in assigned if hasattr(target, "id")}


# --- architecture -------------------------------------------------------------------------


def changes() -> list[str]:
    _, _, after = (DOCS / "architecture.md").read_text().partition("\n## Ten changes\n")
    return after.split("\n### ")[1:]


def existing(text: str) -> set[str]:
    """Files that the text names, from the top or below pipeline/romzarr/."""
    named = re.findall(r"`([\w/.-]+\.(?:py|md|yaml|toml))`", text)
    found = set()
    for name in named:
        places = [place for place in (name, f"pipeline/romzarr/{name}") if (ROOT / place).is_file()]
        assert places, f"{name} does not exist"
        found.add(places[0])
    return found


def test_ten_changes_name_files_that_exist_and_few_of_them():
    assert len(changes()) == 10
    for change in changes():
        few = change.partition("**Today it takes more")[0]
        assert len(existing(change)) <= MOST_FILES or few != change, change.splitlines()[0]
        assert len(existing(few)) <= MOST_FILES


def test_every_file_of_the_architecture_exists():
    existing((DOCS / "architecture.md").read_text())


def test_the_rooms_are_drawn_from_the_imports():
    found = GENERATE.imports()
    assert "numerics.pod" in found["chunked"]
    assert "operations" in found["romzarr"]
    assert "romzarr_flows" not in set().union(*found.values())
    heights = GENERATE.floors(found)
    assert all(heights[o] < heights[name] for name, others in found.items() for o in others)

    def reached(arrows):
        below = {}
        for name in sorted(arrows, key=lambda name: heights[name]):
            below[name] = arrows[name].union(*(below[other] for other in arrows[name]))
        return below

    assert reached(GENERATE.needed(found)) == reached(found)


# --- generated pages ----------------------------------------------------------------------


def test_every_command_is_on_the_page_with_its_options():
    page = GENERATE.commands_page()
    for words in ("## romzarr\n", "### romzarr compress\n", "### romzarr nightly\n", "--max-error"):
        assert words in page
    assert "#### romzarr neural run\n" in page


def test_links_of_copied_pages_lead_to_pages_or_name_the_file(tmp_path):
    source = ROOT / "tests" / "benchmarks" / "RESULTS.md"
    target = DOCS / "generated" / "benchmarks" / "results.md"
    assert "](compression.md)" in GENERATE.copied(source, target)
    page = ROOT / "deploy" / "README.md"
    text = GENERATE.copied(page, DOCS / "generated" / "deploy.md")
    assert "[config.yaml](../settings.md)" in text
    assert "`deploy/crontab`" in text


def test_the_api_has_all_public_names():
    page = (DOCS / "api.md").read_text()
    for name in romzarr.__all__:
        assert re.search(rf"^   {name}$|`romzarr\.{name}`", page, re.MULTILINE), name


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"\n## {version} - " in (ROOT / "CHANGELOG.md").read_text()
