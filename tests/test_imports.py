"""Imports run one way. Those inside functions count, and so do those under TYPE_CHECKING."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BELOW = ("pipeline.errors", "pipeline.contracts")
# What each part may import of ours. A part is the longest name here that a module starts with;
# a module directly under pipeline/ that is not named is an operation.
ALLOWED = {
    "pipeline.errors": (),
    "pipeline.contracts": (),
    "pipeline.config": ("pipeline.errors",),
    "pipeline.encoding": ("pipeline.errors",),
    "pipeline.objects": ("pipeline.errors",),
    "pipeline.numerics": BELOW,
    "pipeline.coding": (*BELOW, "pipeline.numerics"),
    "pipeline.chunked": (*BELOW, "pipeline.numerics", "pipeline.coding"),
    "pipeline.archive": (*BELOW, "pipeline.objects", "pipeline.numerics", "pipeline.encoding"),
    "pipeline.neural": (*BELOW, "pipeline.numerics"),
    "pipeline.store": (
        *BELOW,
        "pipeline.objects",
        "pipeline.numerics",
        "pipeline.coding",
        "pipeline.encoding",
    ),
    "pipeline": ("pipeline",),
    "flows": ("pipeline", "flows"),
}
# Arrays in, arrays out: no chunks and no files in numerics and coding; no screen in the method.
FOREIGN = {
    "pipeline.numerics": ("dask", "distributed", "xarray", "zarr", "fsspec", "yaml"),
    "pipeline.coding": ("dask", "distributed", "xarray", "zarr", "fsspec", "yaml"),
    "pipeline": ("matplotlib", "argparse"),
}
# What reads a store does without them.
FRAMEWORKS = ("jax", "optax", "safetensors", "equinox", "torch")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def part_of(module: str) -> str:
    return max((part for part in ALLOWED if within(module, part)), key=len)


def imported(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything the file imports, wherever the statement stands."""
    package = module_name(path, root).split(".")
    if path.stem != "__init__":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *([node.module] if node.module else [])]
            # `from pipeline import store` names a module only together with the alias.
            yield from ((node.lineno, ".".join([*stem, alias.name])) for alias in node.names)


def violations(root: Path) -> list[str]:
    found = []
    files = sorted([*(root / "pipeline").rglob("*.py"), *(root / "flows").rglob("*.py")])
    for path in files:
        part = part_of(module_name(path, root))
        forbidden = [name for key, names in FOREIGN.items() if within(part, key) for name in names]
        forbidden += [name for name in FRAMEWORKS if part != "pipeline.neural"]
        for line, name in imported(path, root):
            ours = name.split(".")[0] in ("pipeline", "flows")
            wrong = any(within(name, each) for each in forbidden) or (
                ours and not any(within(name, each) for each in (part, *ALLOWED[part]))
            )
            if wrong:
                found.append(f"{path.relative_to(root)}:{line}: {part} may not import {name}")
    return found


def test_imports_run_one_way():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("pipeline/numerics/pod.py", "import pipeline.config"),
        ("pipeline/numerics/pod.py", "from dask import array"),
        ("pipeline/coding/field.py", "from pipeline.store.codec import NAME"),
        ("pipeline/coding/tiles.py", "import zarr"),
        ("pipeline/store/writer.py", "from pipeline.chunked.plan import Plan"),
        ("pipeline/store/writer.py", "from ..chunked import plan"),
        ("pipeline/archive/reader.py", "def f():\n    from pipeline import store"),
        ("pipeline/contracts.py", "from pipeline.errors import PipelineError"),
        ("pipeline/errors.py", "from . import contracts"),
        ("pipeline/compress.py", "import flows.cluster"),
        ("pipeline/config.py", "if TYPE_CHECKING:\n    from pipeline.contracts import BlockSpan"),
        ("pipeline/describe.py", "import matplotlib.pyplot"),
        ("pipeline/numerics/networks.py", "import jax.numpy as jnp"),
        ("flows/neural/commands.py", "def f():\n    from optax import adam"),
        ("pipeline/neural/router.py", "from pipeline.config import Config"),
        ("pipeline/store/reader.py", "from pipeline.neural.selection import select"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, path, statement):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(statement)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("pipeline/numerics/pod.py", "from ..errors import AccuracyError\nimport scipy.linalg"),
        ("pipeline/store/engine.py", "import xarray\nfrom .reader import open_store"),
        ("pipeline/compress.py", "from pipeline.store.writer import write\nimport dask"),
        ("pipeline/neural/router.py", "import jax\nfrom pipeline.numerics import networks"),
        ("flows/cli.py", "import pipeline\nfrom flows.cluster import connect"),
    ],
)
def test_a_right_import_is_not(tmp_path, path, statement):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(statement)
    assert violations(tmp_path) == []
