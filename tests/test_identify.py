"""Known equations come back from a lifted, noisy record after POD and un-mixing."""

from __future__ import annotations

from dataclasses import dataclass

import dask
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from threadpoolctl import threadpool_limits

import romzarr
from romzarr.archive import open_archive
from romzarr.chunked.latent import LatentRecord
from romzarr.chunked.tables import LeftOut
from romzarr.compression.allocate_bits import allocate_fields, plan_fields
from romzarr.compression.model import (
    DEGREES,
    MODEL_BYTES,
    choose_library,
    identify,
    make_library,
    plan_library,
)
from romzarr.compression.pod import factor_archive
from romzarr.compression.weak_systems import REGIME_BYTES, REGIME_PRODUCTS, lazy_systems
from romzarr.config import (
    CompressionConfig,
    Config,
    LibraryConfig,
    SparseRegressionConfig,
    WeakFormConfig,
)
from romzarr.contracts import BlockSpan
from romzarr.errors import ConfigError, LibraryError
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.weakform import triangular_factor
from tests.benchmarks.bench_stream import two_systems
from tests.systems_of_odes import (
    LINEAR_OSCILLATOR,
    LORENZ,
    LOTKA_VOLTERRA,
    VAN_DER_POL,
    KnownSystem,
    whole_within,
)

POINTS, NOISE, TOLERANCE = 500, 0.01, 3e-2


@dataclass(frozen=True)
class Found:
    """An identified ODE in the coordinates in which the system is known.

    ``wrong`` is the largest relative error of a true coefficient; ``false`` the largest
    contribution of any other term, relative to the largest of its equation.
    """

    rank: int
    wrong: float
    false: float


def found_again(system: KnownSystem, snapshots: int, config: Config, seed: int = 0) -> Found:
    """Lift `system`, find a model of the record as `compress` does, and transform it back."""
    rng = np.random.default_rng(seed)
    times, states = system.record(snapshots)
    lift = np.linalg.qr(rng.standard_normal((POINTS, system.states)))[0]
    field = states @ lift.T
    rms = np.sqrt(np.mean((field - field.mean(axis=0)) ** 2))
    field = field + NOISE * rms * rng.standard_normal(field.shape)
    source = xr.Dataset({"u": (("time", "x"), field)}, {"time": times})
    archive = open_archive(source.chunk(time=256))
    with threadpool_limits(1, user_api="blas"):
        coded = allocate_fields(archive, plan_fields(archive, factor_archive(archive, config)))
    if coded.rank != system.states:
        return Found(coded.rank, np.inf, np.inf)
    a, tolerances = coded.a, coded.tolerances
    found = identify(
        LatentRecord.of(a, times, coded.plan.pod.right), times, tolerances, config,
        step=coded.step, coded_bytes=coded.plan.bits / 8,
    )  # fmt: skip
    model = Dynamics(found.systems.library, found.models[0].coefficients)
    # a(t), before it is coded, is an affine map of the states but for noise. Under such a map a
    # polynomial ODE stays one of the same degree.
    lifted = np.column_stack([np.ones(snapshots), states])
    affine = np.linalg.lstsq(lifted, a.here(), rcond=None)[0]
    # Fitting the monomials of the states to the derivative at many of them is exact, also for
    # what the shift by the mean mixes.
    some = states[:: max(1, snapshots // 1000)]
    derivative = model(affine[0] + some @ affine[1:]) @ np.linalg.inv(affine[1:])
    library = PolynomialLibrary(system.states, config.library.degree)
    theta = library.evaluate(some)
    xi = np.linalg.lstsq(theta, derivative, rcond=None)[0]
    truth = system.coefficients(library.names())
    size = np.sqrt(np.mean(theta**2, axis=0))[:, None]
    scale = np.abs(truth * size).max(axis=0)
    return Found(
        coded.rank,
        float(np.abs(xi[truth != 0] / truth[truth != 0] - 1).max()),
        float((np.abs(xi * size) / scale)[truth == 0].max()),
    )


def settings(degree: int, threshold: float | str = "auto") -> Config:
    return Config(
        compression=CompressionConfig(tolerance=TOLERANCE),
        library=LibraryConfig(degree=degree),
        sparse_regression=SparseRegressionConfig(threshold=threshold),
    )


def assert_within_two_percent(found: Found, system: KnownSystem) -> None:
    assert found.rank == system.states
    assert found.wrong <= 0.02
    assert found.false <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("system", "degree"), [(VAN_DER_POL, 3), (LOTKA_VOLTERRA, 2)])
def test_known_equations_are_found_in_a_noisy_field(system, degree):
    """The mean of the state shifts every monomial, so in POD coordinates most terms are there."""
    found = found_again(system, 3000, settings(degree, 1e-3))
    assert_within_two_percent(found, system)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "snapshots", "degree", "seed"),
    [
        (LORENZ, 4000, 2, 0),
        (LORENZ, 4000, 2, 1),
        # In a store of 1 kB no model saves bytes: regimes of which one has no terms must not
        # replace the equations of the whole record.
        (VAN_DER_POL, 3000, 3, 0),
        (VAN_DER_POL, 3000, 3, 1),
        (VAN_DER_POL, 6000, 3, 1),
        (LOTKA_VOLTERRA, 1500, 2, 0),
        (LOTKA_VOLTERRA, 1500, 2, 1),
        (LOTKA_VOLTERRA, 3000, 2, 0),
        (LOTKA_VOLTERRA, 6000, 2, 1),
        (LINEAR_OSCILLATOR, 1500, 2, 0),
        (LINEAR_OSCILLATOR, 1500, 2, 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_known_equations_are_found_with_the_automatic_threshold(system, snapshots, degree, seed):
    found = found_again(system, snapshots, settings(degree), seed)
    assert_within_two_percent(found, system)


def identified(a, times, config, tolerance=1e-3):
    with dask.config.set(scheduler="synchronous"):
        return identify(
            LatentRecord.of_arrays(a, times), times, whole_within(a, tolerance), config,
            step=tolerance, coded_bytes=1e7,
        )  # fmt: skip


def test_time_blocks_of_the_weak_form_change_nothing_but_rounding():
    times, a = LORENZ.record(1500)
    a = a - a.mean(axis=0)
    library = LibraryConfig(degree=2)
    models = [
        identified(
            a, times, Config(library=library, weak_form=WeakFormConfig(block_steps=steps))
        ).models[0]
        for steps in (256, 1024, 10_000)
    ]
    for model in models[1:]:
        assert_allclose(model.coefficients, models[0].coefficients, rtol=1e-6, atol=1e-8)


def oscillators(*parts):
    """A record in which each part, of so many snapshots, turns at its own speed."""
    phase = np.cumsum(np.repeat([0.05 * speed for speed, _ in parts], [n for _, n in parts]))
    return 0.05 * np.arange(len(phase)), np.stack([np.cos(phase), -np.sin(phase)], axis=1)


@pytest.mark.parametrize("switch", [768, 1024, 1100, 1279])
def test_a_change_of_regime_begins_another_model(switch):
    """Two oscillators one after the other: no single linear model serves both."""
    times, a = oscillators((1, switch), (4, 2048 - switch))
    model = identified(a, times, Config(library=LibraryConfig(degree=1)))
    assert len(model.models) == 2
    chosen = model.latent.format.block_model
    before, after = switch // 256, -(-switch // 256)
    assert (chosen[:before] == 0).all()
    assert (chosen[after:] == 1).all()
    for found, speed in zip(model.models, (1, 4), strict=True):
        assert_allclose(found.coefficients[1:], [[0, -speed], [speed, 0]], atol=2e-3 * speed)
    apart = [
        identified(a[part], times[part], Config(library=LibraryConfig(degree=1))).nbytes
        for part in (slice(None, switch), slice(switch, None))
    ]
    # Of a block that is partly of either regime the code without a model is left, twice what the
    # eighth part of the plain code is, as corrections begin and end with it.
    change = model.plain.nbytes / 4
    assert model.nbytes < sum(apart) + change
    # Samples and terms of both models are about 0.15 of the plain code of so short a record.
    assert model.nbytes < change + 0.15 * model.plain.nbytes


def test_as_many_models_as_there_are_regimes():
    times, a = oscillators((1, 1000), (1.7, 1000), (1, 1000), (2.4, 1000))
    model = identified(a, times, Config(library=LibraryConfig(degree=1)))
    speeds = [found.coefficients[2, 0] for found in model.models]
    assert_allclose(speeds, [1, 1.7, 1, 2.4], rtol=1e-2)


def test_one_regime_has_one_model():
    rng = np.random.default_rng(0)
    for system in (LORENZ, LINEAR_OSCILLATOR):
        times, a = system.record(2000)
        for noise in (0, 1e-2):
            noisy = a - a.mean(axis=0) + noise * a.std() * rng.standard_normal(a.shape)
            model = identified(noisy, times, Config(library=LibraryConfig(degree=2)))
            assert len(model.models) == 1
            assert not model.systems.regimes


def test_a_model_of_a_regime_serves_on_either_side_of_an_episode():
    """Snapshots at which a(t) means nothing are in no window."""
    times, a = oscillators((1, 1500), (3, 1500))
    rough = np.zeros(3000, bool)
    rough[600:640] = True
    a[rough] = np.random.default_rng(0).standard_normal((40, 2))
    with dask.config.set(scheduler="synchronous"):
        model = identify(
            LatentRecord.of_arrays(a, times), times, whole_within(a, 1e-3),
            Config(library=LibraryConfig(degree=1)), step=1e-3, coded_bytes=1e7,
            left_out=LeftOut((BlockSpan(600, 640),)),
        )  # fmt: skip
    chosen = model.latent.format.block_model
    assert (chosen[:2] == 0).all()
    assert (chosen[3:5] == 0).all()
    assert (chosen[6:] == 1).all()


@pytest.mark.parametrize("noise", [0, 1e-2])
def test_models_compared_on_stretches_store_as_little_as_if_compared_on_all(monkeypatch, noise):
    times, a = LORENZ.record(10_000)
    a = a - a.mean(axis=0)
    a += noise * a.std() * np.random.default_rng(0).standard_normal(a.shape)
    on_stretches = identified(a, times, Config(), tolerance=1e-2)
    monkeypatch.setattr("romzarr.compression.candidates.SHORT_BLOCKS", 10**6)
    on_all = identified(a, times, Config(), tolerance=1e-2)
    assert on_stretches.stored_bytes <= 1.002 * on_all.stored_bytes


def test_no_model_is_tried_that_cannot_take_fewer_bytes_than_its_fixed_part():
    """Of a record of a few bytes neither lower degrees nor other thresholds are worth a look."""
    times, a = LINEAR_OSCILLATOR.record(1500)
    model = identified(a, times, Config(), tolerance=1e-1)
    assert model.plain.nbytes < MODEL_BYTES
    assert {each.library for each in model.tried} == {PolynomialLibrary(2, DEGREES[0]).size}


def test_the_degree_is_chosen_by_what_lies_on_the_disk(tmp_path):
    """A tenth of the bytes is what products may cost."""
    source, sizes = two_systems(points=100), {}
    for degree in ("auto", 1, 2):
        config = Config(
            compression=CompressionConfig(tolerance=1e-2), library=LibraryConfig(degree=degree)
        )
        report = romzarr.compress(source, tmp_path / str(degree), config=config)
        sizes[degree] = report.stored_bytes
    assert sizes["auto"] <= 1.1 * min(sizes[1], sizes[2])


def test_triangles_of_short_blocks_take_no_more_memory_than_allowed(monkeypatch):
    """However long the record and however large the library, and merges are as few."""
    for snapshots, states in ((200_000, 2), (200_000, 12), (200_000, 40)):
        library, seen = PolynomialLibrary(states, 2), []
        columns = library.size + states

        def factors(record, library, plan, steps, seen=seen):
            seen.append(-(-len(record.times) // steps))
            raise InterruptedError

        monkeypatch.setattr("romzarr.compression.weak_systems.weak_factors", factors)
        times = np.arange(snapshots)
        record = LatentRecord.of_arrays(np.zeros((snapshots, states)), times)
        with pytest.raises(InterruptedError):
            lazy_systems(record, times, LeftOut(), library, None, block_steps="auto")
        (blocks,) = seen
        assert blocks == 1 or 8 * blocks * columns**2 <= REGIME_BYTES <= 2**24
        assert blocks == 1 or blocks * columns**3 <= REGIME_PRODUCTS
        assert states > 2 or blocks == -(-snapshots // 256)


def test_the_library_grows_to_what_terms_and_windows_allow():
    assert choose_library(LibraryConfig(), 5, 10**6).states == 5
    assert choose_library(LibraryConfig(), 500, 10**6).size <= LibraryConfig().max_terms
    small = choose_library(LibraryConfig(), 50, 100)
    assert small.size <= 50 < PolynomialLibrary(small.states + 1, 2).size
    assert choose_library(LibraryConfig(modes=3), 50, 0).states == 3


@pytest.mark.parametrize("support", ["auto", "finest"])
@pytest.mark.parametrize("snapshots", [30, 150, 400, 2000])
def test_windows_can_tell_the_terms_of_a_library_apart(snapshots, support):
    """The windows are those of the library's own modes, of which the fast ones come last."""
    t = 0.1 * np.arange(snapshots)
    a = np.stack([0.8**k * np.sin((1 + k) * t + k) for k in range(12)], axis=1)
    library, plan = plan_library(LibraryConfig(), WeakFormConfig(), a, t, support)
    factor = triangular_factor(a[:, : library.states], t, library, plan, BlockSpan(0, snapshots))
    assert library.states == 1 or 2 * library.size <= factor.windows
    assert library.states > 8 or snapshots < 2000


def test_all_modes_that_carry_the_energy_have_equations():
    """Ten states of Lorenz-96: each of them, where data suffices; else fewer."""

    def right_hand_side(_, x):
        return (np.roll(x, -1) - np.roll(x, 2)) * np.roll(x, 1) - x + 8

    system = KnownSystem("Lorenz-96", right_hand_side, (9.0, *9 * (8.0,)), 0.02, ())
    times, states = system.record(2100)
    times, states = times[:1600], states[500:]
    mean = states.mean(axis=0)
    found = identified(states - mean, times, Config(library=LibraryConfig(degree=2)))
    (model,) = found.models
    assert model.coefficients.shape == (66, 10)
    expected = np.array([right_hand_side(0, x) for x in states[::50]])
    got = Dynamics(found.systems.library, model.coefficients)(states[::50] - mean)
    assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


def test_a_model_decodes_where_the_store_gets_smaller(tmp_path, monkeypatch):
    """Files are what counts: with the fixed part of a model forgotten, small stores are larger."""
    for tolerance, pays in ((1e-2, False), (1e-5, True)):
        times, states = LINEAR_OSCILLATOR.record(1500)
        lift = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 2)))[0]
        source = xr.Dataset({"u": (("time", "x"), states @ lift.T)}, {"time": times})
        sizes = {}
        for name, fixed in (("asked", None), ("always", 0), ("never", 10**6)):
            with monkeypatch.context() as patched:
                if fixed is not None:
                    patched.setattr("romzarr.compression.model.MODEL_BYTES", fixed)
                romzarr.compress(source, tmp_path / name, tolerance=tolerance, overwrite=True)
            sizes[name] = romzarr.info(tmp_path / name).stored_bytes
        assert romzarr.info(tmp_path / "always").model["decodes"]
        assert not romzarr.info(tmp_path / "never").model["decodes"]
        assert romzarr.info(tmp_path / "asked").model["decodes"] == pays
        assert sizes["asked"] <= min(sizes["always"], sizes["never"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (LibraryConfig(modes=9), r"library\.modes: found 9, but the POD has 4 modes; lower it"),
        (LibraryConfig(modes=4, degree=6, max_terms=50), r"library\.max_terms: 4 modes make 210"),
    ],
)
def test_a_library_that_does_not_fit_is_refused_by_its_setting(given, words):
    with pytest.raises(ConfigError, match=words):
        choose_library(given, 4, 10**6)


def test_kinds_are_joined_in_the_order_given():
    given = LibraryConfig(kind="polynomial+fourier+symbolic", degree=1, expressions=("a1*sin(a2)",))
    library = make_library(given, 2)
    a = np.random.default_rng(0).standard_normal((7, 2))
    expected = [np.ones(7), a[:, 0], a[:, 1]]
    values = library.evaluate(a)
    assert_allclose(values[:, :3], np.stack(expected, axis=1))
    assert_allclose(values[:, -1], a[:, 0] * np.sin(a[:, 1]))
    assert library.size == len(library.names()) == values.shape[1] > 4


@pytest.mark.parametrize(
    "config",
    [
        Config(weak_form=WeakFormConfig(test_function="__import__('os')")),
        Config(weak_form=WeakFormConfig(test_function="1 + s")),
        Config(library=LibraryConfig(kind="symbolic", expressions=("a1.real",))),
    ],
)
def test_expressions_are_refused_before_the_archive_is_opened(tmp_path, config):
    with pytest.raises(LibraryError):
        romzarr.compress(tmp_path / "nowhere.zarr", tmp_path / "store", config=config)
    assert not list(tmp_path.iterdir())
