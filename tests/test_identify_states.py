"""`romzarr.identify`: states in any shape, a Dataset out, and a model that can be integrated."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

import romzarr
from romzarr.config import Config, LibraryConfig, SparseRegressionConfig
from romzarr.errors import ArchiveError, ConfigError
from romzarr.operations.identified import equations_text, model_facts
from tests.systems_of_odes import LORENZ, LOTKA_VOLTERRA, with_noise

TIMES, STATES = LOTKA_VOLTERRA.record(400, step=0.05)
NOISY = with_noise(STATES, 0.01, 0)
NAMES = ["prey", "hunters"]
TRUE = {("prey", "prey"): 1, ("prey*hunters", "prey"): -0.5, ("hunters", "hunters"): -1,
        ("prey*hunters", "hunters"): 0.5}  # fmt: skip


def terms_of(model: xr.Dataset) -> dict[tuple[str, str], float]:
    found = model.coefficients.stack(pair=("term", "state"))
    return {pair: float(value) for pair, value in found[found != 0].to_series().items()}


def assert_lotka_volterra(model: xr.Dataset) -> None:
    found = terms_of(model)
    assert found.keys() == TRUE.keys()
    assert_allclose([found[key] for key in TRUE], list(TRUE.values()), rtol=0.02)


def as_dataset() -> xr.Dataset:
    columns = {name: ("time", NOISY[:, k]) for k, name in enumerate(NAMES)}
    return xr.Dataset(columns, {"time": TIMES, "place": "Isle Royale"})


@pytest.mark.parametrize(
    "given",
    [
        lambda: (NOISY, TIMES, NAMES),
        lambda: (NOISY.tolist(), list(TIMES), NAMES),
        lambda: (as_dataset(), None, None),
        lambda: (as_dataset().to_dataarray("species"), None, None),
        lambda: (as_dataset().to_dataarray("species").T, None, None),
        lambda: ([NOISY[:200], NOISY[200:]], [TIMES[:200], TIMES[200:]], NAMES),
        lambda: ([NOISY[:200], NOISY[200:]], TIMES[:200], NAMES),
        lambda: ([as_dataset().isel(time=slice(0, 200)), as_dataset()], None, None),
    ],
)
def test_states_may_come_in_many_shapes(given):
    states, times, names = given()
    assert_lotka_volterra(romzarr.identify(states, times, names=names))


def test_the_result_is_a_dataset_over_terms_and_states():
    model = romzarr.identify([NOISY, NOISY[:100]], [TIMES, TIMES[:100]], names=NAMES)
    assert model.coefficients.dims == ("term", "state")
    assert model.sizes["record"] == 2
    assert model.samples.values.tolist() == [400, 100]
    assert {"1", "prey", "prey^2", "prey*hunters"} <= set(model.term.values)
    zero = model.coefficients == 0
    assert (model.standard_error.where(zero, 1) > 0).equals(~zero)
    assert ((model.probability >= 0) & (model.probability <= 1)).all()
    size = 0.01 * np.sqrt(np.mean(STATES**2, axis=0))
    assert_allclose(model.noise, size, rtol=0.1)
    assert_allclose(model.residual[0] * np.std(NOISY, axis=0), size, rtol=0.1)
    assert model.to_dict()["attrs"]["converged"] == 1


def test_calendar_times_are_numbers_in_a_unit():
    dates = np.datetime64("2020-01-01", "ns") + (np.arange(400) * np.timedelta64(3, "h"))
    model = romzarr.identify(as_dataset().assign_coords(time=dates))
    assert model.attrs["units"] == "h"
    # The step was 0.05 and is 3.
    scaled = {key: value * 60 for key, value in terms_of(model).items()}
    assert_allclose([scaled[key] for key in TRUE], list(TRUE.values()), rtol=0.02)


def test_the_right_hand_side_is_that_of_the_equations():
    model = romzarr.identify(NOISY, TIMES, names=NAMES)
    found = terms_of(model)
    prey, hunters = 2.0, 3.0
    values = {"prey": prey, "hunters": hunters, "prey*hunters": prey * hunters}
    expected = [
        sum(value * values[term] for (term, state), value in found.items() if state == name)
        for name in NAMES
    ]
    function = romzarr.right_hand_side(model)
    assert_allclose(function([prey, hunters]), expected)
    assert function(np.ones((4, 5, 2))).shape == (4, 5, 2)


def test_it_integrates():
    model = romzarr.identify(STATES, TIMES, names=NAMES)
    path = romzarr.integrate(model, STATES[0], TIMES)
    assert path.dims == ("time", "state")
    assert_allclose(path, STATES, rtol=1e-4)


def test_a_model_that_runs_away_integrates_to_nan():
    times = np.linspace(0, 0.9, 200)
    model = romzarr.identify(1 / (1 - times), times)
    assert terms_of(model) == {("x^2", "x"): pytest.approx(1, abs=1e-5)}
    path = romzarr.integrate(model, [1.0], np.linspace(0, 2, 21))
    assert np.isfinite(path[:9]).all()
    assert np.isnan(path[-5:]).all()


def test_a_saved_model_is_the_same_model(tmp_path):
    model = romzarr.identify(NOISY, TIMES)
    model.to_netcdf(tmp_path / "model.nc")
    with xr.open_dataset(tmp_path / "model.nc") as again:
        assert_allclose(
            romzarr.right_hand_side(again)(STATES), romzarr.right_hand_side(model)(STATES)
        )


# --- what is said -------------------------------------------------------------------------


def test_equations_are_printed_with_errors():
    text = equations_text(romzarr.identify(NOISY, TIMES, names=NAMES))
    assert "dprey/dt = (" in text
    assert " ± " in text
    assert "prey*hunters" in text
    assert text.count("can be trusted") == 2


def test_a_term_that_is_not_sure_is_said_to_be_so():
    rng = np.random.default_rng(0)
    times = np.arange(40) * 0.1
    decay = np.exp(-times) + 0.15 * rng.standard_normal(40)
    given = Config(
        sparse_regression=SparseRegressionConfig(threshold=0.0), library=LibraryConfig(degree=1)
    )
    text = equations_text(romzarr.identify(decay, times, config=given))
    assert "% sure]" in text
    assert "doubtful" in text


def test_noise_is_said_to_be_noise():
    states = np.column_stack([STATES, np.random.default_rng(0).standard_normal(400)])
    model = romzarr.identify(states, TIMES)
    assert "not modelled" in model.trust.sel(state="z").item()
    assert "trusted" in model.trust.sel(state="x").item()


def test_series_that_never_change_are_said_to_be_constant():
    model = romzarr.identify(np.full((50, 2), 3.0), names=["a", "b"])
    assert list(model.trust.values) == ["a is constant", "b is constant"]
    assert not model.coefficients.any()
    beside = romzarr.identify(np.column_stack([NOISY, np.ones(len(NOISY))]), TIMES)
    assert beside.trust.sel(state="z").item() == "z is constant"


def test_few_samples_are_said_to_be_few():
    """A smooth piece of a record is that of many equations."""
    times, states = LORENZ.record(12)
    (trust,) = romzarr.identify(states, times).trust.sel(state=["z"]).values
    assert "doubtful: 12 samples are few" in trust


def test_numbers_of_any_size_are_printed_with_their_digits():
    scaled = romzarr.identify(NOISY * [1e-6, 1e6], TIMES, names=NAMES)
    text = equations_text(scaled)
    # Minus 0.5e-6, with an error of some thousandths of it; 0.5e6 has no power.
    assert re.search(r"\(-(4\.9|5\.0)\d* ± 0\.00\d*\)e-7 prey\*hunters", text)
    assert re.search(r"\((49|50)\d{4} ± \d+\) prey\*hunters", text)


@pytest.mark.parametrize("size", [1e60, 1e-60])
def test_units_in_which_products_are_no_numbers_are_refused(size):
    with pytest.raises(
        ArchiveError, match=r"states: 'x' is .*, allowed are .*; give it in other units"
    ):
        romzarr.identify(NOISY * [size, 1.0], TIMES)


def test_a_random_walk_is_not_to_be_trusted():
    rng = np.random.default_rng(0)
    walk = np.zeros((500, 1))
    for k in range(1, 500):
        walk[k] = 0.8 * walk[k - 1] + rng.standard_normal()
    model = romzarr.identify(walk, np.arange(500.0))
    assert not any("can be trusted" in sentence for sentence in model.trust.values)


def test_facts_are_json():
    import json

    facts = model_facts(romzarr.identify(NOISY, TIMES, names=NAMES))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert [each["state"] for each in facts["equations"]] == NAMES


# --- settings -----------------------------------------------------------------------------


def test_a_degree_is_the_highest():
    config = Config(library=LibraryConfig(degree=1))
    model = romzarr.identify(NOISY, TIMES, config=config)
    assert set(model.term.values) == {"1", "x", "y"}


def test_terms_are_all_that_were_tried():
    model = romzarr.identify(NOISY, TIMES)
    assert model.sizes["term"] == 15
    assert "x^2*y^2" in model.term.values


def test_a_threshold_replaces_statistics():
    config = Config(
        library=LibraryConfig(degree=2), sparse_regression=SparseRegressionConfig(threshold=0.05)
    )
    assert_lotka_volterra(romzarr.identify(NOISY, TIMES, names=NAMES, config=config))


def test_other_libraries_serve():
    times = np.arange(500) * 0.05
    pendulum = solve_ivp(
        lambda _, s: [s[1], -np.sin(s[0])], (0, 25), [2.5, 0], t_eval=times, rtol=1e-10, atol=1e-10
    ).y.T
    config = Config(library=LibraryConfig(kind="polynomial+fourier", degree=2))
    model = romzarr.identify(with_noise(pendulum, 0.01, 0), times, names=["q", "p"], config=config)
    found = terms_of(model)
    assert found.keys() == {("p", "q"), ("sin(q)", "p")}
    assert_allclose(list(found.values()), [1, -1], rtol=0.02)


def test_the_noise_of_lorenz_may_be_a_tenth():
    times, states = LORENZ.record(2000)
    model = romzarr.identify(with_noise(states, 0.1, 0), times)
    assert {key for key, _ in zip(terms_of(model), range(9), strict=False)} == {
        ("x", "x"), ("y", "x"), ("x", "y"), ("y", "y"), ("x*z", "y"), ("z", "z"), ("x*y", "z")
    }  # fmt: skip


# --- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "times", "names", "words"),
    [
        (NOISY.T, TIMES, None, "transpose"),
        (NOISY[:4], TIMES[:4], None, "4 samples"),
        (
            np.where(np.arange(400)[:, None] == 7, np.nan, NOISY),
            TIMES,
            None,
            "'x' is nan at sample 7",
        ),
        (NOISY, TIMES[::-1], None, "times have to increase"),
        (NOISY, TIMES, ["a"], "1 series|'a'"),
        (NOISY, TIMES, ["a", "a"], "different name"),
        (np.zeros((3, 4, 5)), None, None, "shape"),
        ([NOISY, NOISY], [TIMES], None, "1 arrays for 2 records"),
        ([as_dataset(), as_dataset()[["prey"]]], None, None, "first record has"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(states, times, names, words):
    with pytest.raises(ArchiveError, match=words):
        romzarr.identify(states, times, names=names)


def test_too_many_series_are_refused():
    with pytest.raises(ConfigError, match="max_terms"):
        romzarr.identify(np.random.default_rng(0).standard_normal((400, 320)), TIMES)
