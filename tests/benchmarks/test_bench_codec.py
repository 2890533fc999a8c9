"""The benchmark of codecs runs on a small archive, and its measures say what they should."""

import numpy as np
import pytest
import xarray as xr

from tests.benchmarks import bench_codec
from tests.benchmarks.codec_measures import dssim, spectral_error
from tests.benchmarks.codec_peers import _bit_rounded


def test_smallest_size(capsys, tmp_path, monkeypatch):
    t, y, x = np.meshgrid(np.arange(4.0), np.arange(24.0), np.arange(30.0), indexing="ij")
    u = (np.sin(0.2 * x + 0.1 * t) * np.cos(0.3 * y)).astype("f4")
    u[:, 3, 4] = np.nan
    dataset = xr.Dataset({"u": (("time", "y", "x"), u)})
    dataset.to_zarr(tmp_path / "waves.zarr", zarr_format=3, consolidated=False)
    monkeypatch.setattr(bench_codec, "BOUNDS", (1e-2,))
    # Without the packages of others: these two are always here.
    known = {name: bench_codec.CODECS[name] for name in ("romzarr", "bit rounding")}
    monkeypatch.setattr(bench_codec, "CODECS", known)
    bench_codec.main([str(tmp_path)])
    page = capsys.readouterr().out
    assert page.count("| waves | u | 0.01 |") == 4
    assert "(error" not in page


def test_measures_of_what_is_the_same_and_of_what_is_not():
    rng = np.random.default_rng(0)
    field = np.cumsum(np.cumsum(rng.standard_normal((3, 40, 50)), 1), 2)
    near, far = (field + e * rng.standard_normal(field.shape) for e in (0.1, 5.0))
    assert dssim(field, field) == pytest.approx(1)
    assert spectral_error(field, field) == 0
    assert dssim(field, near) > dssim(field, far)
    assert spectral_error(field, near) < spectral_error(field, far)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_bit_rounding_keeps_a_bound_with_zeros_at_the_end(dtype):
    values = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    found = _bit_rounded(values, 1e-2)
    assert 0 < np.abs(found - values).max() <= 1e-2
    assert not (found.view(f"u{values.itemsize}") & 0xFFF).any()
