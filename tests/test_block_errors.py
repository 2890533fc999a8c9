"""What a store says of its errors by block of time and tile of space bounds them, and closely."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.errors import StoreError
from romzarr.numerics import error_blocks
from romzarr.numerics.error_blocks import ErrorGrid, decode_squares, encode_squares
from romzarr.store.reading.block_errors import block_errors_of
from romzarr.store.reading.reader import open_store

# Loudness that grows a hundredfold along the record: the errors of values follow, about.
LOUD = 100.0


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch):
    monkeypatch.setattr(error_blocks, "LEAST_VALUES", 64)


def dataset(rng, m=60, noise=0.01, dtype="f4", gaps=0):
    shape = (3, 6, 9)
    modes = rng.standard_normal((3, *shape))
    phases = rng.uniform(0.1, 1, (3, 1)) * np.arange(m) + rng.uniform(0, 6, (3, 1))
    u = np.tensordot(np.cos(phases).T, modes, 1) + rng.uniform(-9, 9)
    u = (u + noise * rng.standard_normal(u.shape)) * 10.0 ** -np.arange(3)[:, None, None]
    u[:, :, rng.random(shape[1:]) < 0.2] = np.nan
    u[(rng.integers(0, m, gaps), *(rng.integers(0, n, gaps) for n in shape))] = np.nan
    loud = np.geomspace(1, LOUD, m)[:, None, None]
    v = np.tensordot(np.cos(phases).T, modes[:, 0], 1) + noise * rng.standard_normal(
        (m, *shape[1:])
    )
    variables = {
        "u": (("lev", "time", "lat", "x"), np.moveaxis(u, 0, 1).astype(dtype)),
        "v": (("time", "lat", "x"), (v * loud).astype(dtype)),
    }
    coords = {
        "time": np.arange(float(m)),
        "lat": np.linspace(-60, 60, 6),
        "lev": ("lev", [1000.0, 500.0, 10.0], {"units": "hPa", "positive": "down"}),
    }
    return xr.Dataset(variables, coords)


def squares(archive, decoded, weights):
    """Squared errors by variable, time first, in float64."""
    found = {}
    for name, exact in archive.data_vars.items():
        off = (decoded[name].astype("f8") - exact.astype("f8")).fillna(0.0) ** 2
        counted = (
            np.cos(np.deg2rad(archive.lat)) if weights != "none" else xr.ones_like(archive.lat)
        )
        found[name] = (
            (off * counted)
            .transpose("time", ...)
            .transpose("time", *(d for d in exact.dims if d != "time"))
        )
    return found


def by_block(values, lengths):
    for axis, length in enumerate(lengths):
        values = np.add.reduceat(values, range(0, values.shape[axis], length), axis=axis)
    return values


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from([0.0, 0.01, 0.3]),
    tolerance=st.sampled_from([0.1, 1e-2, 1e-4]),
    dtype=st.sampled_from(["f4", "f8"]),
    weights=st.sampled_from(["none", "cos(latitude)"]),
    gaps=st.sampled_from([0, 3]),
    m=st.sampled_from([3, 60]),
    bounds=st.sampled_from(
        [
            {"per": "none"},
            {"per": "none", "max_error": {"v": 0.05}},
            {"per": "none", "max_error": {"u": "1% of value"}},
            {},
        ]
    ),
)
def test_errors_of_all_codings_are_within_those_of_their_blocks(
    tmp_path_factory, seed, noise, tolerance, dtype, weights, gaps, m, bounds
):
    archive = dataset(np.random.default_rng(seed), m, noise, dtype, gaps)
    store = tmp_path_factory.mktemp("blocks") / "s"
    config = {"archive": {"weights": weights}, "compression": bounds}
    report = romzarr.compress(archive, store, tolerance=tolerance, config=config)
    opened, decoded = open_store(store), xr.open_dataset(store, engine="romzarr")
    for name, found in squares(archive, decoded, weights).items():
        if report.variables[name].coding in ("lossless", "constant"):
            continue
        known = block_errors_of(opened.last, name)
        assert known.grid.shape == found.shape
        assert 1 < np.prod(known.grid.counts) <= 512
        if name in opened.facts.get("errors_by_index", {}):
            assert known.grid.lengths[1] == 1
        true = by_block(found.values, known.grid.lengths)
        bound = np.sqrt(known.errors.squares) + known.errors.anywhere
        assert (np.sqrt(true) <= bound).all(), (name, report.variables[name].coding)
        total = found.values.sum() ** 0.5
        assert total <= np.sqrt(known.errors.squares.sum()) + known.errors.anywhere
        # The whole of it is no more than is promised for the variable, but for rounding up.
        said = decoded[name].attrs["romzarr_l2_error"]
        assert np.sqrt(known.errors.squares.sum()) <= 1.1 * said


def test_bounds_follow_where_errors_are(tmp_path):
    """Where errors differ by block, bounds do: an even share would be above a quiet block's."""
    rng = np.random.default_rng(0)
    archive = dataset(rng, 240, 0.3)[["v"]]
    romzarr.compress(archive, tmp_path / "s", tolerance=1e-1)
    opened, decoded = open_store(tmp_path / "s"), xr.open_dataset(tmp_path / "s", engine="romzarr")
    known = block_errors_of(opened.last, "v")
    true = np.sqrt(by_block(squares(archive, decoded, "none")["v"].values, known.grid.lengths))
    bound = np.sqrt(known.errors.squares) + known.errors.anywhere
    assert np.median(bound / true) <= 1.6
    assert (bound / true).max() <= 4


def test_episodes_count_where_they_are(tmp_path):
    """Waves of few modes, and noise in a stretch of time, which is coded as values."""
    rng, t, x = np.random.default_rng(0), 0.1 * np.arange(300), np.linspace(0, 1, 128)
    rows = sum(np.outer(np.cos(k * 1.3 * t), np.sin(4 * np.pi * k * x + k)) for k in (1, 2, 3))
    rows[100:180] += rng.standard_normal((80, 128))
    archive = xr.Dataset({"v": (("time", "lat"), rows.astype("f4"))})
    romzarr.compress(archive, tmp_path / "s", tolerance=1e-2)
    assert romzarr.info(tmp_path / "s").episodes == [(100, 180)]
    known = block_errors_of(open_store(tmp_path / "s").last, "v")
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    off = (decoded.v.astype("f8") - archive.v.astype("f8")).values ** 2
    true = np.sqrt(by_block(off, known.grid.lengths))
    bound = np.sqrt(known.errors.squares) + known.errors.anywhere
    assert (true <= bound).all()
    assert (bound <= 1.2 * true).all()


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3])
def test_parts_know_their_own(tmp_path, tolerance):
    archive = dataset(np.random.default_rng(1), 90, 0.1)
    romzarr.compress(archive.isel(time=slice(50)), tmp_path / "s", tolerance=tolerance)
    romzarr.append(tmp_path / "s", archive)
    opened, decoded = open_store(tmp_path / "s"), xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert len(opened.parts) == 2
    for name, found in squares(archive, decoded, "none").items():
        for part, start in zip(opened.parts, opened.starts, strict=False):
            known = block_errors_of(part, name)
            own = found.values[start : start + part.snapshots]
            true = by_block(own, known.grid.lengths)
            assert (np.sqrt(true) <= np.sqrt(known.errors.squares) + known.errors.anywhere).all()


@settings(max_examples=50, deadline=None)
@given(
    exponents=st.lists(st.integers(-400, 300), min_size=1, max_size=512),
    mantissa=st.floats(1, 10),
    zeros=st.lists(st.booleans(), min_size=512, max_size=512),
)
def test_codes_are_bounds_a_little_above(exponents, mantissa, zeros):
    given_ = mantissa * 10.0 ** (np.array(exponents) / 3)
    given_[np.array(zeros[: len(given_)])] = 0.0
    largest, codes = encode_squares(given_)
    found = decode_squares(largest, codes, given_.shape)
    assert len(codes) <= 684
    assert (found >= given_).all()
    assert (found[given_ == 0] == 0).all()
    near = given_ > 1e-9 * given_.max()
    assert (found[near] <= 1.1 * given_[near]).all()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    most=st.sampled_from([2, 16, 256]),
    data=st.data(),
)
def test_sums_by_block_do_not_depend_on_how_a_region_is_cut(shape, most, data):
    grid = ErrorGrid.cut(shape, range(len(shape)), most)
    assert np.prod(grid.counts) <= most
    values = np.random.default_rng(0).random(shape)
    cut = [data.draw(st.integers(-(-n // 5), n)) for n in shape]
    total = np.zeros(grid.counts)
    for start in np.ndindex(*(-(-n // c) for n, c in zip(shape, cut, strict=True))):
        region = tuple(
            slice(i * c, min(n, (i + 1) * c)) for i, c, n in zip(start, cut, shape, strict=True)
        )
        during = np.add.reduceat(values[region], grid.cuts(0, region[0]), axis=0)
        total += grid.collected(region, during)
    np.testing.assert_allclose(total, by_block(values, grid.lengths), rtol=1e-12)


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ({"blocks": [2, 2], "largest": 1.0, "codes": "AAAA"}, "codes are no 4 bytes"),
        ({"blocks": [2, 2], "largest": 1.0, "codes": "AAAA!AA="}, "codes are no 4 bytes"),
        ({"blocks": [4, 4], "largest": 1.0, "codes": "AAAA"}, "do not fit"),
        ({"blocks": [2], "largest": 1.0, "codes": "AAA="}, "do not fit"),
        ({"blocks": [0, 2], "largest": 1.0, "codes": ""}, "do not fit"),
        ({"blocks": [2000, 1], "largest": 1.0, "codes": "AAAA"}, "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(fact, message):
    stored = SimpleNamespace(space_shape=(3,))
    facts = {"block_errors": {"u": fact}}
    part = SimpleNamespace(name="p", facts=facts, variables={"u": stored}, snapshots=5000)
    with pytest.raises(StoreError, match=message):
        block_errors_of(part, "u")
