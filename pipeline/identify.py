"""From a(t) to a sparse model and the samples it needs: the stage between POD and store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.chunked.systems import weak_factors
from pipeline.config import Config, LibraryConfig
from pipeline.contracts import BlockSpan, LatentCode, SparseModel, TriangularFactor
from pipeline.errors import ConfigError
from pipeline.numerics.integrate import Dynamics
from pipeline.numerics.library import (
    ConcatenatedLibrary,
    FourierLibrary,
    Library,
    PolynomialLibrary,
    SymbolicLibrary,
)
from pipeline.numerics.sampling import Tolerances, keep_samples, rebuild
from pipeline.numerics.stlsq import stlsq
from pipeline.numerics.testfunctions import parse_test_function
from pipeline.numerics.weakform import WindowPlan, merge_factors, plan_windows

Matrix = NDArray[np.float64]

# Snapshots a block of kept samples spans: short enough to decode a time range cheaply and
# to keep chaos from amplifying rounding, long enough that its first sample is no burden.
CODE_BLOCK = 256
# Time blocks of the weak form are multiples of it, and this long unless given.
WEAK_BLOCK = 16 * CODE_BLOCK
# Triangular factors may take up this share of the bytes of the basis, or this many bytes.
FACTOR_SHARE, FACTOR_BYTES = 0.02, 2048
# Coefficients that expressions may name while their number is not known.
MOST_MODES = 1000
# What a nonzero coefficient takes up: eight bytes and its place among zeros.
TERM_BYTES = 10


@dataclass(frozen=True)
class LatentModel:
    """Models of a(t), the triangular factors they rest on, and the samples kept.

    ``models[0]`` is pooled over the record; further ones belong to single time blocks.
    ``errors`` (V,) bounds the error with the coefficients exactly as they will be decoded.
    """

    library: Library
    plan: WindowPlan
    block_steps: int
    factors: tuple[TriangularFactor, ...]
    models: tuple[SparseModel, ...]
    code: LatentCode
    errors: Matrix


def check_expressions(config: Config) -> None:
    """Refuse test functions and terms that are not allowed, before any work starts.

    Raises
    ------
    LibraryError
        Naming the piece and what is allowed instead. Which modes exist shows only later.
    """
    parse_test_function(config.weak_form.test_function, CODE_BLOCK)
    if config.library.expressions:
        SymbolicLibrary(MOST_MODES, config.library.expressions)


def make_library(settings: LibraryConfig, states: int) -> Library:
    """Feature library of `states` modes as the settings ask."""
    frequencies = tuple(float(k) for k in range(1, settings.frequencies + 1))
    makers: dict[str, Callable[[], Library]] = {
        "polynomial": lambda: PolynomialLibrary(states, settings.degree, settings.interactions),
        "fourier": lambda: FourierLibrary(states, frequencies),
        "symbolic": lambda: SymbolicLibrary(states, settings.expressions),
    }
    parts = [makers[kind]() for kind in settings.kinds]
    return parts[0] if len(parts) == 1 else ConcatenatedLibrary(tuple(parts))


def choose_library(settings: LibraryConfig, rank: int, factor_bytes: float) -> Library:
    """Library of the leading modes: all of them, or as many as terms and bytes allow.

    Raises
    ------
    ConfigError
        If ``library.modes`` is given and exceeds the rank or ``library.max_terms``.
    """
    if settings.modes != "auto":
        if settings.modes > rank:
            raise ConfigError(
                f"library.modes: found {settings.modes}, but the POD has {rank} modes; lower it"
            )
        library = make_library(settings, settings.modes)
        if library.size > settings.max_terms:
            raise ConfigError(
                f"library.max_terms: {settings.modes} modes make {library.size} terms, allowed "
                f"are {settings.max_terms}; lower library.modes or raise library.max_terms"
            )
        return library
    if settings.expressions:
        return make_library(settings, rank)
    states = 1
    while states < rank:
        size = make_library(settings, states + 1).size
        if size > settings.max_terms or 2 * (size + states + 1) ** 2 > factor_bytes:
            break
        states += 1
    return make_library(settings, states)


def identify(
    a: Matrix,
    times: Matrix,
    tolerances: Tolerances,
    config: Config,
    *,
    basis_bytes: int,
    dtype: np.dtype[Any],
) -> LatentModel:
    """Find a sparse model of a(t) and the samples to keep. Runs Dask.

    Unless a support is given, test functions of two radii are tried: that of the spectrum
    as a whole, and that of the mode with the highest frequencies, which the first may not
    see. The model that stores smaller stays.

    Parameters
    ----------
    a : (m, r) float64, r >= 1
    times : (m,) float64
    tolerances : Tolerances
        How far the coefficients may be off.
    config : Config
    basis_bytes : int
        Bytes of the modes: what is kept for the model stays small beside them.
    dtype : float32 or float64
        Of the samples.
    """
    factor_bytes = max(FACTOR_BYTES, FACTOR_SHARE * basis_bytes)
    library = choose_library(config.library, a.shape[1], factor_bytes)
    block = _weak_block(len(a), library, factor_bytes, config.weak_form.block_steps)
    weak = config.weak_form
    plans: list[WindowPlan] = []
    for support in ("auto", "finest") if weak.support == "auto" else (weak.support,):
        plan = plan_windows(
            times,
            a[:, : library.states],
            test_function=weak.test_function,
            support=support,
            spacing=weak.spacing,
        )
        if all(plan.width != other.width for other in plans):
            plans.append(plan)
    found = [_model_from(a, times, tolerances, config, library, p, block, dtype) for p in plans]
    return min(found, key=_bytes)


def _bytes(model: LatentModel) -> int:
    """Bytes of samples and terms."""
    terms = sum(each.nonzero_terms for each in model.models)
    return model.code.samples.nbytes + TERM_BYTES * terms


def _model_from(
    a: Matrix,
    times: Matrix,
    tolerances: Tolerances,
    config: Config,
    library: Library,
    plan: WindowPlan,
    block: int,
    dtype: np.dtype[Any],
) -> LatentModel:
    """Models from one choice of test functions, and the samples they need."""
    factors = weak_factors(a[:, : library.states], times, library, plan, block)
    models = [_fit(merge_factors(factors), library, config)]
    block_models = None
    if len(factors) > 1:
        own = [_fit(factor, library, config) for factor in factors]
        models, block_models = _worth_keeping(
            a, times, tolerances, library, models[0], own, block, dtype
        )
    dynamics = [Dynamics(library, model.coefficients) for model in models]
    code = keep_samples(
        a,
        times,
        dynamics,
        tolerances,
        block_steps=CODE_BLOCK,
        dtype=dtype,
        block_models=block_models,
    )
    errors = tolerances.errors(rebuild(code, dynamics, times, BlockSpan(0, len(a))) - a)
    return LatentModel(library, plan, block, tuple(factors), tuple(models), code, errors)


def _weak_block(snapshots: int, library: Library, factor_bytes: float, given: int | str) -> int:
    """Snapshots per time block, a multiple of the code's: few enough that factors stay small."""
    if given == "auto":
        one = 2 * (library.size + library.states) ** 2
        blocks = max(1, int(factor_bytes // one))
        steps = max(WEAK_BLOCK, -(-snapshots // blocks))
    else:
        steps = int(given)
    return -(-steps // CODE_BLOCK) * CODE_BLOCK


def _fit(factor: TriangularFactor, library: Library, config: Config) -> SparseModel:
    regression = config.sparse_regression
    return stlsq(
        factor,
        threshold=None if regression.threshold == "auto" else regression.threshold,
        ridge=regression.ridge,
        max_iterations=regression.max_iterations,
        names=library.names(),
    )


def _worth_keeping(
    a: Matrix,
    times: Matrix,
    tolerances: Tolerances,
    library: Library,
    pooled: SparseModel,
    own: Sequence[SparseModel],
    block: int,
    dtype: np.dtype[Any],
) -> tuple[list[SparseModel], NDArray[np.int16]]:
    """Models whose samples saved outweigh their own bytes, and the model of each code block."""
    models, choices = [pooled], []
    for number, start in enumerate(range(0, len(a), block)):
        stop = min(start + block, len(a))
        share = tolerances.part(BlockSpan(start, stop))
        candidates = [Dynamics(library, m.coefficients) for m in (pooled, own[number])]
        codes = [
            keep_samples(
                a[start:stop], times[start:stop], some, share, block_steps=CODE_BLOCK, dtype=dtype
            )
            for some in (candidates[:1], candidates)
        ]
        saved = (codes[0].kept - codes[1].kept) * a.shape[1] * dtype.itemsize
        if saved > TERM_BYTES * own[number].nonzero_terms:
            choice = codes[1].block_model.copy()
            choice[choice == 1] = len(models)
            models.append(own[number])
        else:
            choice = codes[0].block_model
        choices.append(choice)
    return models, np.concatenate(choices)
