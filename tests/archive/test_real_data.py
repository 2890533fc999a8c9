"""Real datasets open, and their blocks are what xarray reads."""

import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from romzarr.archive import open_archive

NAMES = ["combustion_opinf", "cylinder_nek_pod", "cylinder_xlb_lbm"]
NAMES += ["globcurrent_agulhas", "kdv_pysindy", "ks_pysindy"]


@pytest.mark.parametrize("name", NAMES)
def test_a_real_dataset_opens(shared_data, read_all, name):
    path = shared_data / f"{name}.zarr"
    if not path.is_dir():
        pytest.skip(f"{name} is not among the real datasets here")
    archive = open_archive(path)
    with xr.open_zarr(path, consolidated=False) as expected:
        assert archive.order == tuple(sorted(expected.data_vars))
        assert archive.raw_bytes == sum(v.nbytes for v in expected.data_vars.values())
        xr.testing.assert_identical(archive.carried, expected.drop_vars(archive.order))
        for variable in archive.variables:
            assert_array_equal(read_all(variable), expected[variable.name].values)
