"""Names that the examples in docstrings may use, and modules that cannot be collected."""

from importlib.util import find_spec

import pytest
from _pytest.doctest import DoctestItem

# Modules that import a package which `make test` does not install, by that package.
OPTIONAL = {
    "jax": [f"pipeline/romzarr/neural/{name}.py" for name in ("mlp", "router", "training")],
    "safetensors": ["pipeline/romzarr/neural/files.py"],
    "transformers": [
        "pipeline/romzarr/latents/transformers.py",
        "tests/benchmarks/activations/serving.py",
        "tests/benchmarks/bench_latents.py",
    ],
    "dask_kubernetes": ["flows/romzarr_flows/clusters/kubernetes.py"],
}
collect_ignore = [
    path for package, paths in OPTIONAL.items() if find_spec(package) is None for path in paths
]


@pytest.fixture(autouse=True)
def names_for_examples(request: pytest.FixtureRequest) -> None:
    """``tmp``: an empty folder of the example's own."""
    if isinstance(request.node, DoctestItem):
        namespace = request.getfixturevalue("doctest_namespace")
        namespace["tmp"] = request.getfixturevalue("tmp_path")
