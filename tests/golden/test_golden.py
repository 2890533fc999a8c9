"""Stores that were written once decode as they did, and the coders make the bytes they made."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from romzarr.store.reading.reader import CoefficientStore, open_store
from tests.golden.cases import CASES
from tests.golden.decoded import decoded, described, kept
from tests.golden.make import PAYLOADS, STORES
from tests.golden.payloads import payloads

# A clone should stay small: about 13 kB for each of the things that the format has.
MOST_BYTES = 350_000
ADVICE = (
    "stores that people have would not be read any more. If that is not meant, undo it; if it is, "
    "and the format is not frozen yet, run `make golden`, and say why in the commit message; "
    "else give the format a new number (pipeline/romzarr/store/FORMAT.md, Versions)"
)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    for name in CASES:
        with zipfile.ZipFile(STORES / f"{name}.zip") as file:
            file.extractall(folder / name)
    return {name: folder / name for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_golden_store_decodes_to_what_it_did(name, unpacked):
    store = unpacked[name] / "store"
    dataset, opened = decoded(store), open_store(store)
    opened.check_files()
    expected = json.loads((unpacked[name] / "expected.json").read_text())
    assert described(dataset) == expected, ADVICE
    # Sums over modes may be rounded otherwise on other machines; all else is the same anywhere.
    unit = 32 * np.finfo(opened.facts["arithmetic"]).eps
    with np.load(unpacked[name] / "expected.npz") as values:
        for variable, found in kept(dataset).items():
            before = values[variable]
            if variable in opened.variables and opened.variables[variable].coding == "pod":
                scale = np.nanmax(np.abs(before.astype("f8")))
                unit = max(unit, np.finfo(before.dtype).eps)
                np.testing.assert_allclose(
                    found.astype("f8"), before.astype("f8"), rtol=0, atol=unit * scale,
                    err_msg=ADVICE,
                )  # fmt: skip
            else:
                np.testing.assert_array_equal(found, before, err_msg=ADVICE)


def test_the_coders_make_the_bytes_they_made():
    assert payloads() == json.loads(PAYLOADS.read_text()), ADVICE


def features(store: CoefficientStore) -> set[str]:
    """What of the format a store makes use of."""
    found = {"parts"} if len(store.parts) > 1 else set()
    for part in store.parts:
        found |= {array.rpartition("/")[2] for array in part.arrays.layouts}
        found |= {f"{v.coding} {v.dtype.str}" for v in part.variables.values()}
        found |= {"extends"} if part.before else set()
        found |= {"open stream"} if "stream" in part.facts else set()
        found |= {"differences"} if any(part.latent.orders) else set()
        found |= {"scaling"} if any(v.scaling for v in part.variables.values()) else set()
        found |= {"logarithm"} if any(v.unit for v in part.variables.values()) else set()
        if part.rank and (part.latent.block_model >= 0).any():
            found.add("model")
        for path in part.arrays.layouts:
            coded = path.endswith(("/fields", "/values", "/episodes", "/corrections"))
            if coded and max(part.arrays.codec(path).levels, default=0) >= 3:
                found.add("levels")
    return found


def test_there_is_a_golden_store_for_all_that_the_format_has(unpacked):
    found = set().union(*(features(open_store(each / "store")) for each in unpacked.values()))
    arrays = {"fields", "values", "episodes", "residuals", "exact", "mask", "mean", "times"}
    arrays |= {
        "singular_values",
        "steps",
        "samples",
        "corrections",
        "block_model",
        "steady",
        "sums",
    }
    types = {f"lossless {order}f{size}" for order in "<>" for size in (2, 4, 8)}
    types |= {f"pod {dtype}" for dtype in ("<f2", "<f4", ">f4", "<f8", ">f8")}
    types |= {f"direct {dtype}" for dtype in ("<f2", "<f4", "<f8")}
    types |= {f"constant {dtype}" for dtype in ("<f2", ">f4", "<f8")}
    ways = {
        "parts",
        "extends",
        "open stream",
        "differences",
        "model",
        "levels",
        "scaling",
        "logarithm",
    }
    assert found >= arrays | types | ways
    assert sum(each.stat().st_size for each in STORES.iterdir()) <= MOST_BYTES
