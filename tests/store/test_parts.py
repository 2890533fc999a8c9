"""A store of several parts: each for some consecutive snapshots, perhaps with modes of others."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from romzarr.errors import StoreError
from romzarr.store.reading.reader import open_store
from romzarr.store.writing.writer import StoreWriter
from tests.store.conftest import code_fields, code_latent

SIZES = {"y": 6, "x": 8}


def part(make, start, snapshots, **how):
    times = xr.Dataset(coords={"time": (start + np.arange(snapshots)) * 0.5})
    return make(sizes={"time": snapshots, **SIZES}, carried=times, seed=start, **how)


def extension(make, base, start, snapshots, rank):
    """Snapshots in the modes of `base` and `rank` more."""
    new = part(make, start, snapshots, rank=rank)
    rng = np.random.default_rng(start)
    raw = rng.standard_normal((snapshots, len(base.sigma) + rank))
    coded, latent = code_latent(raw, 7, 8, True, rng)
    variables, dataset = {}, new.dataset
    for name, variable in new.variables.items():
        fields = np.concatenate([0 * variable.fields[:1], variable.fields[1:]])
        valid = np.zeros(variable.mask.shape, bool)
        variables[name] = code_fields(fields, variable.tile, valid, np.dtype(new.arithmetic))
        both = zip((base.variables[name], variables[name]), (base.sigma, new.sigma), strict=True)
        modes = [f.fields[1:] / s.reshape(-1, *[1] * (f.fields.ndim - 1)) for f, s in both]
        full = base.mean(name) + np.tensordot(latent, np.concatenate(modes), 1)
        axis = dataset[name].dims.index("time")
        dataset[name] = dataset[name].copy(data=np.moveaxis(full, 0, axis).astype("float32"))
    return replace(new, latent=latent, coded=coded, variables=variables, dataset=dataset)


@pytest.fixture(scope="module")
def grown(make, write, tmp_path_factory):
    """A part, two that go on with its modes (one with more, one without), and one of its own."""
    path, base = tmp_path_factory.mktemp("parts") / "grown", part(make, 0, 12)
    write(base, path)
    examples = [base]
    for start, snapshots, rank in ((12, 1, 2), (13, 9, 0), (22, 5, None)):
        before = open_store(path)
        if rank is None:
            examples.append(part(make, start, snapshots))
        else:
            examples.append(extension(make, base, start, snapshots, rank))
        if rank == 0:  # beside the modes of the base, those of the part between
            examples[-1] = continued(examples[-1], examples[-2], base)
        extends = None if rank is None else before.last.name
        write(examples[-1], path, extends=extends, onto=before.root, keep=len(before.parts))
    return path, xr.concat([each.dataset for each in examples], "time", data_vars="minimal")


def continued(example, between, base):
    """`example` with coefficients of the modes of `between` as well, and no fields of its own."""
    rng = np.random.default_rng(5)
    rank = len(base.sigma) + len(between.sigma)
    coded, latent = code_latent(rng.standard_normal((len(example.latent), rank)), 7, 8, True, rng)
    dataset = example.dataset
    for name in example.variables:
        modes = [
            each.variables[name].fields[1:] / each.sigma.reshape(-1, 1, 1)
            for each in (base, between)
        ]
        full = base.mean(name) + np.tensordot(latent, np.concatenate(modes), 1)
        axis = dataset[name].dims.index("time")
        dataset[name] = dataset[name].copy(data=np.moveaxis(full, 0, axis).astype("float32"))
    return replace(example, latent=latent, coded=coded, dataset=dataset, variables={})


def test_parts_read_as_one_record(grown):
    path, expected = grown
    decoded = xr.open_dataset(path, engine="romzarr")
    assert json.loads((path / "zarr.json").read_bytes())["attributes"]["romzarr"]["format"] == 4
    xr.testing.assert_allclose(decoded.load(), expected, rtol=1e-5)
    assert decoded.time.identical(expected.time)
    store = open_store(path)
    assert [each.rank for each in store.parts] == [3, 5, 5, 3]
    assert [len(each.before) for each in store.parts] == [0, 1, 2, 0]
    store.check_files()
    files = [file for file in path.rglob("*") if file.is_file()]
    assert store.stored_bytes() == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize(
    "key",
    [
        {"time": 12}, {"time": -1, "x": 3}, {"time": slice(10, 24, 3), "y": [4, 1]},
        {"time": [25, 3, 12, 3]}, {"time": slice(4, 4)}, {"time": slice(None, None, -1), "y": 2},
    ],
)  # fmt: skip
def test_whatever_is_asked_for_crosses_parts(grown, key):
    path, expected = grown
    decoded = xr.open_dataset(path, engine="romzarr").isel(key).load()
    xr.testing.assert_allclose(decoded, expected.isel(key), rtol=1e-5)


def test_a_part_replaces_those_that_are_not_kept(grown, make, write, tmp_path):
    path, expected = shutil.copytree(grown[0], tmp_path / "copy"), grown[1]
    before = open_store(path)
    last = part(make, 12, 4)
    write(last, path, onto=before.root, keep=1)
    whole = xr.concat([expected.isel(time=slice(12)), last.dataset], "time", data_vars="minimal")
    xr.testing.assert_allclose(xr.open_dataset(path, engine="romzarr").load(), whole, rtol=1e-5)
    # Those that were replaced stay for whoever reads them.
    assert open_store(path).root.generations < {entry.name for entry in path.glob("2*")}


def test_who_comes_second_is_refused(grown, make, write, tmp_path):
    path = shutil.copytree(grown[0], tmp_path / "copy")
    before = open_store(path)
    write(part(make, 27, 4), path, onto=before.root, keep=4)
    content = (path / "zarr.json").read_bytes()
    with (
        pytest.raises(StoreError, match="changed by another writer"),
        StoreWriter(path, onto=before.root, keep=4),
    ):
        pass
    assert (path / "zarr.json").read_bytes() == content


def test_what_a_part_goes_on_with_has_to_be_before_it(make, write, tmp_path):
    base = part(make, 0, 12)
    write(base, tmp_path / "s")
    root = open_store(tmp_path / "s").root
    new = extension(make, base, 12, 3, 1)
    write(new, tmp_path / "s", extends="20200101T000000-00000000", onto=root, keep=1)
    with pytest.raises(StoreError, match="not an earlier part"):
        open_store(tmp_path / "s")


def test_parts_of_other_variables_are_refused(make, write, tmp_path):
    write(part(make, 0, 12), tmp_path / "s")
    root = open_store(tmp_path / "s").root
    write(part(make, 12, 3, dims={"u": ("time", "y", "x")}), tmp_path / "s", onto=root, keep=1)
    with pytest.raises(StoreError, match="different variables"):
        open_store(tmp_path / "s")
