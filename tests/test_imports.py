"""Imports run one way. Those inside functions count, and so do those under TYPE_CHECKING."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BELOW = ("romzarr.errors", "romzarr.inner_product", "romzarr.contracts", "romzarr.arguments")
STORE = (
    "romzarr.objects",
    "romzarr.encoding",
    "romzarr.loss",
    "romzarr.numerics",
    "romzarr.coding",
)
# What each part may import of ours, from the bottom up. A part is the longest name here that a
# module starts with.
ALLOWED: dict[str, tuple[str, ...]] = {
    "romzarr.errors": (),
    "romzarr.inner_product": (),
    "romzarr.contracts": ("romzarr.inner_product",),
    "romzarr.progress": (),
    "romzarr.arguments": ("romzarr.errors",),
    "romzarr.config": ("romzarr.errors", "romzarr.arguments"),
    "romzarr.encoding": ("romzarr.errors",),
    "romzarr.loss": (),
    "romzarr.objects": ("romzarr.errors",),
    "romzarr.reports": BELOW,
    "romzarr.numerics": BELOW,
    "romzarr.numerics.dynamics": (*BELOW, "romzarr.numerics"),
    "romzarr.numerics.pod": (*BELOW, "romzarr.numerics"),
    "romzarr.coding": (*BELOW, "romzarr.numerics"),
    "romzarr.codecs": (*BELOW, "romzarr.numerics", "romzarr.coding"),
    "romzarr.chunked": (*BELOW, "romzarr.numerics", "romzarr.coding"),
    "romzarr.archive": (*BELOW, "romzarr.objects", "romzarr.encoding"),
    "romzarr.neural": (*BELOW, "romzarr.numerics"),
    "romzarr.latents": (*BELOW, "romzarr.coding"),
    "romzarr.latents.transformers": (*BELOW, "romzarr.latents"),
    "romzarr.store": (*BELOW, *STORE),
    "romzarr.store.reading": (*BELOW, *STORE, "romzarr.store"),
    "romzarr.store.writing": (*BELOW, *STORE, "romzarr.store"),
    "romzarr.derivatives": (*BELOW, "romzarr.config", "romzarr.archive"),
    "romzarr.recorded_config": ("romzarr.errors", "romzarr.config", "romzarr.store.reading"),
}
# Each of these may import all of the above, and those before it that are named.
HIGHER: dict[str, tuple[str, ...]] = {
    "romzarr.compression": (),
    "romzarr.comparison": (),
    "romzarr.reconstruction": (),
    "romzarr.views": ("romzarr.comparison",),
    "romzarr.streams": ("romzarr.compression",),
    "romzarr.operations": (
        "romzarr.compression",
        "romzarr.comparison",
        "romzarr.reconstruction",
        "romzarr.streams",
    ),
    "romzarr.answers": ("romzarr.operations",),
    "romzarr": ("romzarr.answers", "romzarr.config", "romzarr.operations", "romzarr.streams"),
    "romzarr_flows": ("romzarr",),
}
LOWER = tuple(ALLOWED)
ALLOWED |= {part: (*LOWER, *others) for part, others in HIGHER.items()}
# Rooms that do not know each other, though one is inside the other, or both in the same.
APART = {
    "romzarr.numerics": ("romzarr.numerics.dynamics", "romzarr.numerics.pod"),
    "romzarr.numerics.dynamics": ("romzarr.numerics.pod",),
    "romzarr.numerics.pod": ("romzarr.numerics.dynamics",),
    "romzarr.latents": ("romzarr.latents.transformers",),
    "romzarr.store": ("romzarr.store.reading", "romzarr.store.writing"),
    "romzarr.store.reading": ("romzarr.store.writing",),
    "romzarr.store.writing": ("romzarr.store.reading",),
}
# Arrays in, arrays out: no chunks and no files in numerics and coding; no screen in the method.
FOREIGN = {
    "romzarr.numerics": ("dask", "distributed", "xarray", "zarr", "fsspec", "yaml"),
    "romzarr.coding": ("dask", "distributed", "xarray", "zarr", "fsspec", "yaml"),
    "romzarr.latents": ("dask", "distributed", "xarray", "fsspec", "yaml"),
    "romzarr": ("matplotlib", "argparse"),
}
SOURCES = ("pipeline", "flows")
# What reads a store does without them.
FRAMEWORKS = ("jax", "optax", "safetensors", "equinox", "torch", "transformers")
TRAINED = ("romzarr.neural", "romzarr.latents.transformers")


def module_name(path: Path, root: Path) -> str:
    """Name of a module below ``pipeline/`` or ``flows/``."""
    parts = path.relative_to(root).with_suffix("").parts[1:]
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
            # `from romzarr import store` names a module only together with the alias.
            yield from ((node.lineno, ".".join([*stem, alias.name])) for alias in node.names)


def may_import(part: str, name: str) -> bool:
    """Whether a part may import something of ours."""
    if any(within(name, each) for each in APART.get(part, ())):
        return False
    # The package itself has names of its own, which no room may use.
    allowed = [
        each for each in (part, *ALLOWED[part]) if part == "romzarr_flows" or each != "romzarr"
    ]
    return any(within(name, each) for each in allowed)


def violations(root: Path) -> list[str]:
    found = []
    for path in sorted(path for source in SOURCES for path in (root / source).rglob("*.py")):
        part = part_of(module_name(path, root))
        forbidden = [name for key, names in FOREIGN.items() if within(part, key) for name in names]
        forbidden += [name for name in FRAMEWORKS if part not in TRAINED]
        for line, name in imported(path, root):
            ours = name.split(".")[0] in ("romzarr", "romzarr_flows")
            wrong = any(within(name, each) for each in forbidden) or (
                ours and not may_import(part, name)
            )
            if wrong:
                found.append(f"{path.relative_to(root)}:{line}: {part} may not import {name}")
    return found


def test_imports_run_one_way():
    assert violations(ROOT) == []


def test_no_module_imports_itself_by_way_of_others():
    """Imports by name at run time count: they only hide a circle."""
    paths = [path for source in SOURCES for path in (ROOT / source).rglob("*.py")]
    modules = {module_name(path, ROOT): path for path in paths}
    imports = {
        name: {each for _, found in imported(path, ROOT) for each in known(found, modules)}
        | set(re.findall(r"import_module\(\"(romzarr[\w.]*)\"", path.read_text()))
        for name, path in modules.items()
        if path.stem != "__init__"
    }
    order = TopologicalSorter({name: found & imports.keys() for name, found in imports.items()})
    order.prepare()


def known(found: str, modules: dict[str, Path]) -> list[str]:
    """The module that an import names, itself or as the home of what is imported."""
    return [name for name in (found, found.rpartition(".")[0]) if name in modules][:1]


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("numerics/pod/block.py", "import romzarr.config"),
        ("numerics/pod/block.py", "from dask import array"),
        ("numerics/pod/block.py", "from romzarr.numerics.dynamics import library"),
        ("numerics/budget.py", "from romzarr.numerics.pod.truncation import tails"),
        ("coding/field.py", "from romzarr.store.codec import NAME"),
        ("coding/tiles.py", "import zarr"),
        ("store/writing/writer.py", "from romzarr.chunked.plan import Plan"),
        ("store/writing/writer.py", "from ...chunked import plan"),
        ("store/writing/writer.py", "from romzarr.store.reading import reader"),
        ("store/layout.py", "from romzarr.store.reading.arrays import StoredArrays"),
        ("archive/open.py", "def f():\n    from romzarr import store"),
        ("contracts.py", "from romzarr.errors import PipelineError"),
        ("errors.py", "from . import contracts"),
        ("operations/compress.py", "import romzarr_flows.cluster"),
        ("compression/pod.py", "from romzarr.operations.compress import compress"),
        ("compression/pod.py", "from romzarr import compress"),
        ("comparison/blocks.py", "from romzarr.streams import blocks"),
        ("config.py", "if TYPE_CHECKING:\n    from romzarr.contracts import BlockSpan"),
        ("operations/describe.py", "import matplotlib.pyplot"),
        ("numerics/dynamics/networks.py", "import jax.numpy as jnp"),
        ("neural/router.py", "from romzarr.config import Config"),
        ("store/reading/reader.py", "from romzarr.neural.selection import select"),
        ("latents/arrays.py", "def f():\n    import torch"),
        ("latents/codec.py", "from romzarr.latents.transformers import CodedCache"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, path, statement):
    assert len(violations(written(tmp_path, f"pipeline/romzarr/{path}", statement))) == 1


def test_the_frameworks_of_training_stay_in_one_room(tmp_path):
    statement = "def f():\n    from optax import adam"
    path = "flows/romzarr_flows/neural/commands.py"
    assert len(violations(written(tmp_path, path, statement))) == 1


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("numerics/pod/block.py", "from ...errors import AccuracyError\nimport scipy.linalg"),
        ("numerics/pod/block.py", "from romzarr.numerics import triangles"),
        ("store/reading/engine.py", "import xarray\nfrom .reader import open_store"),
        ("operations/compress.py", "from romzarr.store.writing.writer import write\nimport dask"),
        ("neural/router.py", "import jax\nfrom romzarr.numerics import dynamics"),
        ("../../flows/romzarr_flows/cli.py", "import romzarr\nfrom romzarr_flows import logs"),
    ],
)
def test_a_right_import_is_not(tmp_path, path, statement):
    assert violations(written(tmp_path, f"pipeline/romzarr/{path}", statement)) == []


def written(root: Path, path: str, statement: str) -> Path:
    file = (root / path).resolve()
    file.parent.mkdir(parents=True)
    file.write_text(statement)
    return root
