"""Versions that are promised are versions that are tested, and what is imported is asked for."""

from __future__ import annotations

import ast
import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PARTS = ("pipeline/romzarr", "flows/romzarr_flows")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What `romzarr[all of them]` brings; the other extras are tools of who works on romzarr.
EXTRAS = ("plot", "neural", "transformers", "s3", "slurm", "kubernetes", "gateway", "grib")


def extras() -> list[str]:
    return [each for name in EXTRAS for each in PROJECT["optional-dependencies"][name]]


def required(lines: list[str]) -> Iterator[tuple[str, Version]]:
    """Name and floor of each dependency."""
    for each in map(Requirement, lines):
        if each.name != PROJECT["name"]:
            (floor,) = (part.version for part in each.specifier if part.operator == ">=")
            yield canonicalize_name(each.name), Version(floor)


def promised() -> dict[str, Version]:
    return dict(required(PROJECT["dependencies"] + extras()))


def pinned() -> dict[str, Version]:
    """What `make test-oldest` installs."""
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_every_floor_is_the_version_that_is_tested():
    assert pinned() == promised()


def files() -> list[Path]:
    return sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))


def modules() -> list[str]:
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts[1:]) for path in files())
    return [name.removesuffix(".__init__") for name in names]


def imported(source: str) -> set[str]:
    """First names of all that is imported by absolute name, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


def foreign() -> set[str]:
    """All that our packages import and is neither theirs nor Python's."""
    names = set().union(*(imported(path.read_text()) for path in files()))
    return names - {"romzarr", "romzarr_flows"} - set(sys.stdlib_module_names)


def test_all_that_is_imported_is_a_dependency_of_ours():
    providers = packages_distributions()
    for module in foreign() & set(providers):
        owners = {canonicalize_name(each) for each in providers[module]}
        assert owners & promised().keys(), f"pyproject.toml lacks {module}, of {owners}"


def lacking(module: str) -> str:
    """What the module could not import, as far as that is not installed; else nothing."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        return (error.name or "").split(".")[0]
    return ""


def test_every_module_imports_unless_an_extra_is_not_installed():
    optional = {name.replace("-", "_") for name, _ in required(extras())}
    for module in modules():
        name = lacking(module)
        assert not name or (name in optional and importlib.util.find_spec(name) is None), module
