"""Correlations, modes, spectra and distributions hold their bounds, and so do combinations."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.signal import periodogram

import romzarr
from romzarr.answers import quantity, selection
from romzarr.answers.bounds import of_correlations
from romzarr.answers.distribution import Distribution
from romzarr.contracts import Coding
from romzarr.errors import AnswerError
from tests.strategies import seeds

# Of points without values, with the oldest xarray.
pytestmark = pytest.mark.filterwarnings("ignore:Degrees of freedom:RuntimeWarning")

M, SHAPE = 96, (16, 20)
TIMES = np.arange("2001-01-15", "2009-02", dtype="datetime64[M]")[:M].astype("datetime64[ns]")


def red_noise(rng, m, shape):
    """Smooth in space and time, of unit variance."""
    ky, kx = np.fft.fftfreq(shape[0], 1 / shape[0]), np.fft.rfftfreq(shape[1], 1 / shape[1])
    size = 1 / (1 + np.hypot(ky[:, None], kx) ** 2 / 9) ** 1.25
    state, rows = np.zeros((shape[0], len(kx)), complex), []
    for _ in range(m):
        fresh = rng.standard_normal(state.shape) + 1j * rng.standard_normal(state.shape)
        state = 0.8 * state + 0.6 * size * fresh
        rows.append(np.fft.irfft2(state, shape))
    found = np.array(rows)
    return found / found.std()


def archive(noise, gaps=0, masked=0.2, seed=0):
    """Two variables with a seasonal cycle on noise, and a constant one."""
    rng, phase = np.random.default_rng(seed), 2 * np.pi * np.arange(M) / 12
    coords = {"time": TIMES, "lat": np.linspace(-60, 60, SHAPE[0]), "x": np.arange(SHAPE[1]) / 4}
    patterns, land = red_noise(rng, 5, SHAPE), rng.random(SHAPE) < masked
    variables = {}
    for name, shift in {"u": 0.0, "v": 1.0}.items():
        waves = np.array([np.cos(phase + shift), np.sin(2.3 * phase), np.cos(0.37 * phase + shift)])
        values = 9 + np.tensordot(waves.T, patterns[:3] + shift * patterns[2:], 1)
        values = values + noise * red_noise(rng, M, SHAPE)
        values[:, land] = np.nan
        values[rng.integers(0, M, gaps), rng.integers(0, 9, gaps), rng.integers(0, 9, gaps)] = (
            np.nan
        )
        variables[name] = (("time", "lat", "x"), values.astype("f4"))
    variables["c"] = (("time", "lat", "x"), np.broadcast_to(patterns[4], (M, *SHAPE)).astype("f4"))
    return xr.Dataset(variables, coords)


# What to compress, and how u is then coded.
KINDS = {
    "pod": (archive(0.0), {"tolerance": 1e-2}, Coding.POD),
    "weighted": (archive(0.003), {"tolerance": 3e-2, "weights": "cos(latitude)"}, Coding.POD),
    "values": (archive(2.0, masked=0.0), {"tolerance": 1e-1}, Coding.DIRECT),
    "hybrid": (archive(0.3, masked=0.0), {"tolerance": 3e-2}, Coding.HYBRID),
    "gaps": (archive(0.0, gaps=4), {"tolerance": 1e-2}, Coding.POD),
    "lossless": (archive(0.3), {"tolerance": 0}, Coding.LOSSLESS),
    "appended": (archive(0.0), {"tolerance": 1e-2}, Coding.POD),
    "bounded": (archive(2.0), {"tolerance": 1e-1, "max_error": {"u": 0.4}}, Coding.DIRECT),
}


class Case:
    """A store, what it was made of, and what it decodes to."""

    def __init__(self, path, kind):
        self.truth, options, self.coding = KINDS[kind]
        if kind == "appended":
            romzarr.compress(self.truth.isel(time=slice(50)), path, **options)
            romzarr.append(path, self.truth)
        else:
            romzarr.compress(self.truth, path, **options)
        self.stored = xr.open_dataset(path, engine="romzarr", cache=False)
        self.decoded = xr.open_dataset(path, engine="romzarr").load()
        weight = np.cos(np.deg2rad(self.truth.lat)) if "weights" in options else 1.0
        self.weights = weight * xr.ones_like(self.truth.c[0]).drop_vars("time").astype("f8")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("further"), {}

    def case(kind):
        if kind not in made:
            made[kind] = Case(folder / kind, kind)
        return made[kind]

    return case


kinds = st.sampled_from(sorted(KINDS))
parts = st.sampled_from(
    [
        {},
        {"time": slice(7, 80), "x": slice(3, 15)},
        {"lat": [3, 9, 4], "x": 5},
        {"time": slice(0, 40, 2)},
    ]
)


def chosen(case, part):
    """The selection of the store, of the archive and of decoded values, in float64, and weights."""
    there = {dim: each for dim, each in part.items() if dim != "time"}
    return (
        case.stored.isel(part).romzarr,
        case.truth.isel(part).astype("f8"),
        case.decoded.isel(part).astype("f8"),
        case.weights.isel(there),
    )


def norm(error, weights):
    """Weighted L2 norm of what is known of an error."""
    return float(np.sqrt((weights * error.fillna(0.0) ** 2).sum()))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_coding_is_among_the_cases(cases, kind):
    codings = cases(kind).stored.romzarr.info.variables
    assert codings["u"]["coding"] == KINDS[kind][2]
    from_factors = kind in ("pod", "weighted", "appended")
    assert ("pod: from factors" in cases(kind).stored.romzarr._repr_html_()) == from_factors


@settings(max_examples=25, deadline=None)
@given(kind=kinds, part=parts, seed=seeds)
def test_correlations_hold_their_bound(cases, kind, part, seed):
    answers, truth, decoded, weights = chosen(cases(kind), part)
    series = np.cumsum(np.random.default_rng(seed).standard_normal(truth.sizes["time"]))
    index = xr.DataArray(series, dims="time")

    def correlation(values):
        """By definition; NaN where a value is missing."""
        about, other = values - values.mean("time", skipna=False), index - index.mean()
        with np.errstate(invalid="ignore"):
            return (about * other).sum("time", skipna=False) / np.sqrt(
                (about**2).sum("time", skipna=False) * (other**2).sum()
            )

    found = answers.correlation(index)
    for name in ("u", "v"):
        xr.testing.assert_allclose(found[name], correlation(decoded[name]), rtol=0, atol=1e-4)
        error = found[name] - correlation(truth[name])
        assert norm(error, weights) <= found[f"{name}_bound"]
    assert found.c.isnull().all()


@settings(max_examples=15, deadline=None)
@given(kind=kinds, lat=st.floats(-60, 60), x=st.floats(0, 5))
def test_covariances_with_a_point_hold_their_bound(cases, kind, lat, x):
    answers, truth, decoded, weights = chosen(cases(kind), {})
    point = {"lat": lat, "x": x}
    if truth.sel(point, method="nearest").u.isnull().any():
        with pytest.raises(AnswerError, match="values of which must be there"):
            answers["u"].covariance(point)
        return
    found = (
        answers[["u"]]
        .covariance(point)
        .merge(answers[["u"]].correlation(point).rename(u="r", u_bound="r_bound"))
    )

    def both(values):
        """Covariance and correlation by definition."""
        about = values - values.mean("time", skipna=False)
        other = about.sel(point, method="nearest").drop_vars(("lat", "x"))
        mean = (about * other).mean("time", skipna=False)
        return mean, mean / (about.std("time", skipna=False) * other.std())

    for name, true, same in zip(("u", "r"), both(truth.u), both(decoded.u), strict=True):
        xr.testing.assert_allclose(found[name], same, rtol=0, atol=2e-4)
        assert norm(found[name] - true, weights) <= found[f"{name}_bound"] + 1e-9


@settings(max_examples=25, deadline=None)
@given(kind=kinds, part=parts)
def test_eofs_are_those_of_an_svd_within_their_bounds(cases, kind, part):
    answers, truth, decoded, weights = chosen(cases(kind), part)
    found = answers.eofs(3)
    root = np.sqrt(weights)
    for name in ("u", "v"):
        both = []
        for dataset in (truth, decoded):
            values = (dataset[name] - dataset[name].mean("time")) * root
            flat = values.where(dataset[name].notnull().all("time"), 0.0).values
            both.append(np.linalg.svd(flat.reshape(len(flat), -1), full_matrices=False))
        (_, sigma, modes), (_, same, _) = both
        mine, scale = found[f"{name}_singular_values"].values, same[0]
        assert np.allclose(mine, same[:3], rtol=0, atol=1e-5 * scale)
        assert np.sqrt(np.sum((mine - sigma[:3]) ** 2)) <= found[f"{name}_singular_values_bound"]
        fields = (found[name] * root).fillna(0.0).values.reshape(3, -1)
        for k in range(3):
            if found[f"{name}_bound"][k] < 1:
                angle = subspace_angles(fields[k : k + 1].T, modes[k : k + 1].T)[0]
                assert np.sin(angle) <= found[f"{name}_bound"][k]
        # Coefficients times fields are the values but for what further ones have.
        known = (decoded[name] - decoded[name].mean("time")).where(found[name][0].notnull())
        left = known - (found[f"{name}_coefficients"] * found[name]).sum("mode", skipna=False)
        expected = np.sqrt((same[3:] ** 2).sum())
        assert norm(left, weights) == pytest.approx(expected, rel=1e-3, abs=1e-4 * scale)


@settings(max_examples=25, deadline=None)
@given(kind=kinds, part=parts)
def test_spectra_are_periodograms_within_their_bounds(cases, kind, part):
    answers, truth, decoded, weights = chosen(cases(kind), part)
    # Months have other lengths: their numbers are the times.
    numbers = {"time": np.arange(truth.sizes["time"]) * 0.5}
    answers = answers.dataset.assign_coords(numbers).romzarr
    found = answers.spectrum()
    for name in ("u", "v"):
        power, same = (
            periodogram(dataset[name].values, fs=2.0, axis=0)[1] for dataset in (truth, decoded)
        )
        known = ~np.isnan(power[0])
        np.testing.assert_allclose(
            found[name].values[:, known], same[:, known], rtol=1e-3, atol=1e-4 * np.nanmax(same)
        )
        error = abs(found[name].values - power)
        size = np.nansum(error * weights.values) if known.any() else 0.0
        assert size <= found[f"{name}_bound"]
    if kind != "gaps":
        area = xr.DataArray(np.arange(1.0, 1.0 + truth.sizes["lat"]), dims="lat")
        found = answers.spectrum_of_average(area)
        for name in ("u", "v"):
            average = truth[name].weighted(area).mean(set(truth.u.dims) - {"time"})
            if truth[name].isnull().all():
                continue
            np.testing.assert_allclose(found.frequency, periodogram(average, fs=2.0)[0])
            error = abs(found[name] - periodogram(average, fs=2.0)[1]).sum()
            assert error <= found[f"{name}_bound"]


@settings(max_examples=30, deadline=None)
@given(kind=kinds, part=parts, samples=st.sampled_from([1 << 20, 3000]), seed=seeds)
def test_distributions_hold_their_bounds(cases, kind, part, samples, seed):
    answers, truth, decoded, weights = chosen(cases(kind), part)
    rng = np.random.default_rng(seed)
    edges, shares = np.sort(rng.uniform(5, 13, 6)), rng.random(4)
    histogram = answers.histogram(edges, samples=samples, rng=rng)
    quantiles = answers.quantile(shares, samples=samples, rng=rng)
    for name in ("u", "v"):
        for dataset, exact in ((truth, False), (decoded, True)):
            values = dataset[name].values.ravel()
            counts = np.broadcast_to(weights.values, dataset[name].shape).ravel()
            known = ~np.isnan(values)
            order = np.argsort(values[known])
            values, counts = values[known][order], counts[known][order] / counts[known].sum()
            below = np.array([counts[values <= edge].sum() for edge in edges])
            error = abs(histogram[name].values - np.diff(below))
            total = np.cumsum(counts)
            true = values[np.minimum(np.searchsorted(total, shares), len(total) - 1)]
            off = abs(quantiles[name].values - true)
            if not exact:
                assert (error <= histogram[f"{name}_bound"].values + 1e-12).all()
                assert (off <= quantiles[f"{name}_bound"].values + 1e-12).all()
            elif len(values) <= samples:
                # Rounding may put a value on the other side of an edge.
                assert (error <= 2 * counts.max() + 1e-9).all()
                assert (off <= 1e-3).all()


@settings(max_examples=30, deadline=None)
@given(
    kind=kinds,
    part=parts,
    factors=st.tuples(*(st.floats(-3, 3) for _ in range(3))),
    group=st.sampled_from([None, "mean", "time.month"]),
)
def test_linear_combinations_hold_their_bounds(cases, kind, part, factors, group):
    answers, truth, decoded, weights = chosen(cases(kind), part)
    a, b, c = factors
    combined = (a * answers["u"] - b * answers["v"] + c).rename("w")
    both = []
    for dataset in (truth, decoded):
        values = a * dataset.u - b * dataset.v + c
        if group == "mean":
            values = values - values.mean("time")
        elif group:
            # Of groups of one snapshot nothing is left, NaN but where it is missing.
            values = values.groupby(group) - values.groupby(group).mean()
        both.append(values)
    expected, same = both
    if group:
        combined = combined.without_mean(None if group == "mean" else group)
    # Of the oracle, where all is constant.
    rounding = 1e-11
    found, size = combined.values(), 1e-4 * (1 + abs(a) + abs(b)) * 9
    np.testing.assert_allclose(found.w, same.transpose(*found.w.dims), rtol=0, atol=size)
    assert norm(found.w - expected, weights) <= found.w_bound + rounding
    std = combined.std()
    assert norm(std.w - expected.std("time"), weights) <= std.w_bound + rounding
    mean = combined.mean()
    assert norm(mean.w - expected.mean("time"), weights) <= mean.w_bound + rounding


def test_differences_of_two_stores_are_from_factors(tmp_path):
    first, second = archive(0.0, seed=1), archive(0.0, seed=1)
    second["u"] = second.u * 1.1 + 0.3
    for name, each in {"a": first, "b": second}.items():
        romzarr.compress(each[["u"]], tmp_path / name, tolerance=1e-2)
    difference = romzarr.open(tmp_path / "b") - romzarr.open(tmp_path / "a")
    assert "from factors" in difference._repr_html_()
    truth = second.u.astype("f8") - first.u.astype("f8")
    for found, true in (
        (difference.mean(), truth.mean("time")),
        (difference.std(), truth.std("time")),
    ):
        assert norm(found.u - true, 1.0) <= found.u_bound
    with pytest.raises(AnswerError, match="modes differ"):
        _ = difference.modes
    with pytest.raises(AnswerError, match="other coordinates"):
        _ = difference - romzarr.open(tmp_path / "a").isel(time=slice(None, None, -1))


def test_selections_of_answers_are_those_of_datasets(cases):
    case = cases("pod")
    answers = (
        romzarr.open(case.stored.romzarr.info.source["path"]) if False else case.stored.romzarr
    )
    mine = answers.sel(lat=slice(-30, 30), time="2003").isel(x=[4, 2]).mean()
    other = case.stored.sel(lat=slice(-30, 30), time="2003").isel(x=[4, 2]).romzarr.mean()
    xr.testing.assert_identical(mine, other)
    xr.testing.assert_identical(
        answers.sel(x=1.3, method="nearest").mean(), answers.isel(x=5).mean()
    )
    month = case.decoded.u.astype("f8").groupby("time.month")
    np.testing.assert_allclose(answers.anomaly("time.month").u, month - month.mean(), atol=1e-4)


def test_levels_with_bounds_of_their_own_have_those_of_answers(tmp_path):
    """One is at rest, and the others differ by orders of magnitude."""
    rng, time = np.random.default_rng(0), 0.1 * np.arange(M)
    patterns = rng.standard_normal((2, 4, 8, 9)) * 10.0 ** np.arange(4)[:, None, None]
    u = np.tensordot([np.cos(time), np.sin(2.2 * time)], patterns, (0, 0))
    u[:, 2] = patterns[0, 2]
    truth = xr.Dataset({"u": (("time", "lev", "y", "x"), u.astype("f4"))}, {"time": time})
    romzarr.compress(
        truth, tmp_path / "s", tolerance=1e-2, config={"compression": {"per": ["lev"]}}
    )
    answers, truth = romzarr.open(tmp_path / "s"), truth.u.astype("f8")
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u.astype("f8")
    anomalies = answers.without_mean()
    xr.testing.assert_allclose(
        anomalies.isel(lev=0).sel(x=2).std(), answers.sel(x=2).isel(lev=0).std()
    )
    for chosen in ({}, {"lev": 0}, {"lev": [1, 2]}, {"lev": 2}, {"lev": 3, "x": slice(3)}):
        part, found = truth.isel(chosen), answers.isel(chosen).std()
        np.testing.assert_allclose(
            found.u, decoded.isel(chosen).std("time"), rtol=1e-4, atol=1e-6 * float(abs(part).max())
        )
        fluctuation = norm(part - part.mean("time"), 1.0) / M**0.5
        assert norm(found.u - part.std("time"), 1.0) <= found.u_bound
        if "x" not in chosen:
            assert found.u_bound <= 1.1e-2 * fluctuation + 1e-5 * float(abs(part).max())


@pytest.mark.parametrize("kind", ["weighted", "values", "gaps", "appended"])
def test_parts_of_space_give_the_same_answers(cases, kind, monkeypatch):
    answers = cases(kind).stored.romzarr
    index = np.arange(M) % 7
    asked = {
        "mean": lambda a: a.mean(),
        "std": lambda a: a.std(),
        "month": lambda a: a.climatology(),
        "correlation": lambda a: a.correlation(xr.DataArray(index, dims="time")),
        "sigma": lambda a: a.eofs(3)[["u_singular_values", "v_singular_values"]],
        "integrate": lambda a: a.integrate(),
        "anomaly": lambda a: a.anomaly(),
        "quantile": lambda a: a.quantile([0.1, 0.5], samples=2000),
    }
    whole = {name: ask(answers) for name, ask in asked.items()}
    # About 40 points of all snapshots at a time.
    monkeypatch.setattr(quantity, "PIECE_BYTES", 8 * M * 40)
    monkeypatch.setattr(selection, "BLOCK_BYTES", 8 * 5 * 40)
    for name, ask in asked.items():
        again = ask(cases(kind).stored.isel(x=slice(None)).romzarr)
        xr.testing.assert_allclose(again, whole[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["pod", "weighted", "values", "hybrid"])
def test_bounds_of_further_answers_are_not_idle(cases, kind):
    """Worst cases are rarer than means over the years, so bounds may be some times errors."""
    answers, truth, _, weights = chosen(cases(kind), {})
    numbers = answers.dataset.assign_coords(time=np.arange(M)).romzarr
    power = xr.DataArray(periodogram(truth.u.values, axis=0)[1], dims=("frequency", "lat", "x"))
    index = truth.u.mean(("lat", "x"))
    spectrum, correlation, eofs = numbers.spectrum(), answers.correlation(index), answers.eofs(2)
    flat = ((truth.u - truth.u.mean("time")) * np.sqrt(weights)).fillna(0.0).values.reshape(M, -1)
    sigma = np.linalg.svd(flat, compute_uv=False)
    anomaly = answers.anomaly()
    ratios = {
        "spectrum": spectrum.u_bound / float((abs(spectrum.u - power) * weights).sum()),
        "correlation": correlation.u_bound
        / norm(correlation.u - xr.corr(truth.u, index, "time"), weights),
        "anomaly": anomaly.u_bound
        / norm(anomaly.u - (truth.u - truth.u.mean("time")), weights),
    }  # fmt: skip
    assert all(1 <= float(each) <= 30 for each in ratios.values()), ratios
    # All singular values together are off by what the values are.
    whole = np.sqrt((sigma**2).sum())
    assert eofs.u_singular_values_bound <= 1.01 * KINDS[kind][1]["tolerance"] * whole
    if kind == "pod":
        assert (eofs.u_bound <= 0.2).all()
    # Shares need not be off at all; the bounds are within the spread of the values.
    quantiles = answers.quantile([0.05, 0.5, 0.95])
    assert (quantiles.u_bound <= 0.75 * truth.u.std()).all()
    assert (answers.histogram([7, 8, 9, 10, 11]).u_bound <= 0.32).all()


def test_what_cannot_be_answered_is_refused(cases):
    answers = cases("pod").stored.romzarr
    with pytest.raises(AnswerError, match="equal steps"):
        answers.spectrum()
    with pytest.raises(AnswerError, match="must increase"):
        answers.histogram([3, 2])
    with pytest.raises(AnswerError, match="from 0 to 1"):
        answers.quantile([1.2])
    with pytest.raises(AnswerError, match="no variable 'w'"):
        answers["w"]
    with pytest.raises(AnswerError, match="one of each"):
        answers["u"] + answers
    with pytest.raises(AnswerError, match="no dim 'depth'"):
        answers.sel(depth=3)
    with pytest.raises(AnswerError, match="takes one variable"):
        answers.rename("w")
    with pytest.raises(AnswerError, match="already"):
        answers.without_mean().without_mean()
    with pytest.raises(AnswerError, match="select in time first"):
        answers.without_mean().isel(time=slice(5))
    with pytest.raises(AnswerError, match="subtracted from one"):
        answers.without_mean() + answers
    with pytest.raises(AnswerError, match="is constant"):
        answers.correlation(xr.DataArray(np.ones(M), dims="time"))
    with pytest.raises(AnswerError, match="no values"):
        answers.isel(x=slice(0, 0)).histogram([0, 1])


def test_answers_are_shown(cases):
    pytest.importorskip("matplotlib").use("agg")
    answers = cases("pod").stored.romzarr
    assert "from factors" in answers._repr_html_()
    assert "rank" in answers.info._repr_html_()
    assert "<pre>" in answers.equations._repr_html_()
    from matplotlib import pyplot as plt

    numbers = answers.dataset.assign_coords(time=np.arange(M)).romzarr
    for draw in (
        lambda: answers.plot.modes("u"),
        lambda: answers.isel(x=3).plot.modes("u", count=2),
        lambda: answers.plot.coefficients(),
        lambda: answers.plot.singular_values(),
        lambda: answers.plot.average("u"),
        lambda: numbers.plot.spectrum_of_average("u"),
    ):
        draw()
        assert plt.gcf().axes[0].has_data()
        plt.close("all")


@settings(max_examples=40, deadline=None)
@given(seed=seeds, size=st.floats(0, 2), kind=st.sampled_from(["noise", "one", "squeezed"]))
def test_no_error_moves_a_distribution_beyond_its_bounds(seed, size, kind):
    """With an error of a given root mean square, be it spread or all on few values."""
    rng = np.random.default_rng(seed)
    found, weights = np.sort(rng.standard_normal(60).round(1)), rng.random(60) + 0.01
    shares = weights / weights.sum()
    edge, share = rng.uniform(-1, 1), rng.uniform(0.05, 0.95)
    error = {
        "noise": rng.standard_normal(60),
        "one": np.eye(60)[rng.integers(60)],
        # What is near the edge goes just over it.
        "squeezed": np.where(abs(found - edge) < size, edge - found, 0.0) * 1.0001,
    }[kind]
    most = float(np.sqrt(shares @ error**2))
    error = (
        error * (min(1.0, size / most) if kind == "squeezed" else size / most) if most else error
    )
    truth = found + error
    bounded = Distribution(found, shares, size, 0.0)
    below, value = bounded.share_below(np.array([edge])), bounded.quantile(np.array([share]))
    order = np.argsort(truth)
    true = truth[order][np.searchsorted(np.cumsum(shares[order]), share - 1e-12)]
    assert below.least[0] - 1e-9 <= shares[truth <= edge].sum() <= below.largest[0] + 1e-9
    assert value.least[0] - 1e-9 <= true <= value.largest[0] + 1e-9


def test_bounds_of_distributions_are_attained():
    """Ten values, 0 to 9, and an error that can do one thing and no more."""
    bounded = Distribution(np.arange(10.0), np.full(10, 0.1), (0.1 * (1 + 4)) ** 0.5, 0.0)
    # 6 and 7 cost 4 and 1.
    assert bounded.quantile(np.array([0.6])).largest[0] == pytest.approx(8)
    assert bounded.share_below(np.array([5.0])).largest[0] == pytest.approx(0.8)
    assert bounded.share_below(np.array([7.5])).least[0] == pytest.approx(
        0.8 - 0.2 - 0.1 * (5 - 0.25 - 2.25) / 6.25
    )


@settings(max_examples=40, deadline=None)
@given(seed=seeds, size=st.floats(0, 5))
def test_no_error_changes_correlations_beyond_their_bound(seed, size):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((5, 8)) * 10.0 ** rng.uniform(-2, 1, (5, 1))
    series, weights = rng.standard_normal(8), rng.random(5)
    # Most of it against what turns first.
    error = rng.standard_normal((5, 8)) - rng.choice([0, 3]) * values
    error *= size / np.sqrt(np.sum(weights[:, None] * error**2))
    unit = series / np.linalg.norm(series)

    def correlation(rows):
        return rows @ unit / np.linalg.norm(rows, axis=1)

    found, lengths = correlation(values), np.linalg.norm(values, axis=1)
    off = np.sqrt(np.sum(weights * (correlation(values + error) - found) ** 2))
    assert off <= of_correlations(found, lengths, size, weights) + 1e-9
