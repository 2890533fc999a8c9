"""The coordinates in which a model has fewest terms for what it explains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from romzarr.contracts import Matrix
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.coordinates.affine import Frames, generators
from romzarr.numerics.dynamics.coordinates.descent import contributions, descend, starts
from romzarr.numerics.dynamics.coordinates.elimination import (
    FLAT,
    SETTLED,
    Model,
    eliminated,
    improved,
)
from romzarr.numerics.dynamics.coordinates.evidence import Evidence
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.likelihood import Guess
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.subsets import local_search
from romzarr.numerics.dynamics.term_selection import Choice, probabilities

# Starts that are followed; those of many coefficients in parts of so many numbers (64 MB).
STARTS, NUMBERS = 400, 1 << 23
# The best of them, by contributions, of which the terms are chosen; fewer where no trajectory
# follows the record, or none of these few is sparse: there is hardly a right answer to miss.
CANDIDATES, FEW = 24, 6
# So many in turn that are no better end the search; of one that is worse by so many terms nothing
# is expected.
PATIENCE, HOPELESS = 12, 10
# Contributions below are left out at first: near the right coordinates they are those of errors of
# coordinates. What is missing is added again.
SMALL = 4e-3
# Contributions about which a start has a term or not, where starts are compared.
TERM = 0.02
# Sums, of contributions or squares, that differ by less, relatively, are those of one place that
# was reached twice.
ALIKE = 1e-3
SEED = 0


@dataclass(frozen=True)
class Weighed:
    """The covariance of a model's coefficients (k, k), and the probability of all terms (p, q)."""

    covariance: Matrix
    probability: Matrix


def sparsest_model(
    records: Sequence[Record],
    library: PolynomialLibrary,
    guess: Guess,
    price: float,
    most_terms: float,
) -> Model:
    """The model with fewest terms for what it explains, in whichever coordinates.

    Parameters
    ----------
    records : sequence of Record
        States of mean zero and variance one, in which noise is independent: scaled coefficients
        of POD, of which the noise is that of the data.
    library : PolynomialLibrary
    guess : Guess
        A good model of the records with terms of `library`, about which the likelihood of all
        others is taken to be that of a linear system.
    price : float
        Of a term, in units of minus twice the logarithm of the likelihood.
    most_terms : float
        A model with more is of no use: if the first few coordinates have more, the search ends.

    Returns
    -------
    Model
        Always the same for the same input: starts are random with a fixed seed.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the model of `guess` leaves the finite numbers.
    """
    evidence, moments = Evidence.of(records, library, guess), moments_of(library, guess)
    count = CANDIDATES if guess.broken == 0 else FEW
    candidates = islice(_candidates(evidence, moments), count)
    return nearer(records, guess, in_order(_best(evidence, candidates, price, most_terms)))


def moments_of(library: PolynomialLibrary, guess: Guess) -> Matrix:
    """Means (p, p) over the record of products of two features."""
    features = library.evaluate(np.concatenate(guess.states))
    return np.asarray(features.T @ features / len(features))


def nearer(records: Sequence[Record], guess: Guess, model: Model) -> Model:
    """The model fitted again to what the record says of models near it."""
    about = replace(guess, coefficients=model.original)
    evidence = Evidence.of(records, model.evidence.library, about)
    return Model.of(evidence, model.frame, model.support).settled()


def in_order(model: Model) -> Model:
    """Coordinates in the order of the modes that have most of them, in their direction."""
    turn = model.frame.turn
    leading = np.argmax(np.abs(turn), axis=1)
    order = np.lexsort((-np.abs(turn).max(axis=1), leading))
    signs = np.sign(turn[order, leading[order]])
    change = np.zeros_like(turn)
    change[np.arange(len(turn)), order] = signs
    exchange = Frames(change[None], np.zeros((1, len(turn))))
    # Exact: a monomial becomes another one, or minus that.
    support = exchange.coefficients(model.evidence.library, model.coefficients)[0] != 0
    return Model.of(model.evidence, exchange[0].after(model.frame), support)


def sparsest_in(evidence: Evidence, frame: Move, price: float) -> Model:
    """The best terms in coordinates that are given."""
    shape = evidence.rows.shape[1:]
    whole = Model.of(evidence, frame, np.ones(shape, bool))
    choice = _choice(whole, np.zeros((len(evidence.y), 0)))
    chosen = local_search(choice.a, choice.y, range(len(choice.pairs)), choice.scores(price))
    support = np.zeros(len(choice.pairs), bool)
    support[chosen] = True
    return Model.of(evidence, frame, support.reshape(shape))


def contributing(model: Model, moments: Matrix, threshold: float, *, free: bool) -> Model:
    """Without terms that contribute less than this share of a derivative's rms, one by one.

    Coordinates that are `free` move with the terms that stay.
    """
    library = model.evidence.library
    frames = Frames(model.frame.turn[None], model.frame.shift[None])
    while model.support.any():
        share = contributions(library, model.original, moments, frames)[0]
        share[~model.support] = np.inf
        least = int(np.argmin(share))
        if share.flat[least] >= threshold:
            break
        support = model.support.copy()
        support.flat[least] = False
        model = Model.of(model.evidence, model.frame, support)
        if free:
            model = model.settled()
            frames = Frames(model.frame.turn[None], model.frame.shift[None])
    return model


def weighed(model: Model, price: float, *, free: bool) -> Weighed:
    """How sure the terms are, where coordinates are `free` to move or are given."""
    moves = model.moves if free else np.zeros((len(model.evidence.y), 0))
    choice = _choice(model, moves)
    columns = choice.a[:, np.flatnonzero(model.support)]
    inverse = np.linalg.pinv(columns, rcond=FLAT) / choice.lengths[model.support.ravel()][:, None]
    covariance = inverse @ inverse.T * model.evidence.variance(model.squares)
    return Weighed(covariance, probabilities(choice, model.support, price))


def _choice(model: Model, moves: Matrix) -> Choice:
    """The terms to choose from in the coordinates of a model, less what moves of them can do."""
    columns = model.rows.reshape(len(model.evidence.y), -1)
    before = np.linalg.norm(columns, axis=0)
    size = np.linalg.norm(moves, axis=0)
    left, values, _ = np.linalg.svd(moves / np.where(size > 0, size, 1.0), full_matrices=False)
    basis = left[:, values > FLAT * values.max(initial=0.0)]
    columns = columns - basis @ (basis.T @ columns)
    right = model.evidence.y - basis @ (basis.T @ model.evidence.y)
    lengths = np.linalg.norm(columns, axis=0)
    # What moves of the coordinates can do as well is no column of its own.
    own = lengths > FLAT * before
    lengths = np.where(own, lengths, 1.0)
    evidence = model.evidence
    return Choice(
        np.arange(len(own)),
        np.where(own, columns, 0.0) / lengths,
        right,
        evidence.rest,
        evidence.size,
        evidence.floor,
        lengths,
    )


def _best(
    evidence: Evidence,
    candidates: Iterable[tuple[Move, Matrix]],
    price: float,
    most_terms: float,
) -> Model:
    """The best of the models near the candidates."""
    best: Model | None = None
    waited = 0
    reached: list[Model] = []
    for number, (frame, shares) in enumerate(candidates, 1):
        model = eliminated(Model.of(evidence, frame, shares > SMALL).settled(), price)
        hopeless = best is not None and model.score(price) >= best.score(price) + HOPELESS * price
        # What the same model improves to is known.
        if not hopeless and not any(_alike(model, each) for each in reached):
            reached.append(model)
            model = improved(model, price)
        if best is None or model.score(price) < best.score(price) - SETTLED:
            best, waited = model, 0
        else:
            waited += 1
        if waited == PATIENCE or (number == FEW and best.support.sum() > most_terms):
            break
    if best is None:
        raise np.linalg.LinAlgError("no coordinates are finite")
    return best


def _alike(one: Model, other: Model) -> bool:
    """Whether two models are one, but for the order and signs of coordinates."""
    same = one.support.sum() == other.support.sum()
    return bool(same and abs(one.squares - other.squares) <= ALIKE * other.squares)


def _candidates(evidence: Evidence, moments: Matrix) -> Iterator[tuple[Move, Matrix]]:
    """Different coordinates that starts lead to, the sparsest first, and contributions (p, q)."""
    library, xi = evidence.library, evidence.most_likely()
    q = library.states
    every = starts(q, STARTS, np.random.default_rng(SEED))
    parts = -(-STARTS * len(generators(library).pairs[0]) * xi.size // NUMBERS)
    found = [
        descend(library, xi, moments, Frames(every.turns[some], every.shifts[some]))
        for some in np.array_split(np.arange(STARTS), parts)
    ]
    frames = Frames(
        np.concatenate([each.turns for each in found]),
        np.concatenate([each.shifts for each in found]),
    )
    shares = contributions(library, xi, moments, frames)
    sums = np.sum(np.log1p((shares / TERM) ** 2), axis=(1, 2))
    order = np.argsort(sums, kind="stable")
    seen: list[float] = []
    for number in order[np.isfinite(sums[order])]:
        if all(abs(sums[number] - other) > ALIKE * other for other in seen):
            seen.append(float(sums[number]))
            yield frames[int(number)], shares[number]
