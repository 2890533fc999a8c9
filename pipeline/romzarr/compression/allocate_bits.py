"""How the error is spent: rank and quantisation step, and what they leave to the coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import dask
import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.archive import Archive
from romzarr.chunked.fields import LazyTiles, code_tile, lazy_fields, tile_rates
from romzarr.chunked.shared_fields import SharedTiles, shared_products, shared_rates
from romzarr.chunked.slices import kept_and_summed, sums
from romzarr.chunked.tables import Table
from romzarr.coding.bands import depth
from romzarr.coding.rates import Allocation, Rates, allocate, position_of, rates, step_of
from romzarr.coding.tiles import tile_shape
from romzarr.compression.pod import ArchivePOD
from romzarr.contracts import Coding, Matrix
from romzarr.errors import AccuracyError
from romzarr.numerics.dynamics.sampling import Tolerances
from romzarr.numerics.pod.gram import Gram
from romzarr.numerics.pod.truncation import tails

# Variables that a message names.
NAMED = 10
# Bits of a mode besides its fields and coefficients: its singular value.
MODE_BITS = 64.0
# Ranks are tried up to so many times the least, and some more; and anew up to as many times more
# where the best is not within so much of them.
TRIED, MORE, INNER = 2, 8, 0.75
# Variables of up to so many points share an array of up to so many values.
FEW_POINTS, SHARED_VALUES = 16, 1 << 22
# Significant digits of steps, which are texts in metadata and facts.
STEP_DIGITS = 3
# Share of the squared error planned for the coefficients that they must be left with.
LEAST_SHARE = 0.7
# Steps are lowered at most so often, to so much of what they were, and then each time to a power
# more: of few numbers the error is far from what is expected, and any step may be unlucky.
MOST_ATTEMPTS, LOWERED = 12, 0.96


@dataclass(frozen=True)
class FieldsPlan:
    """Rank and steps that should meet the bound with fewest bits, before anything is coded.

    ``field_bits`` (V,) is what the fields of each variable should cost, ``shared_bits`` (V,)
    its part of what modes cost besides, by its part of their energy; ``bits`` all together,
    infinite where nothing meets the bound, or no mode is needed for it (``chosen`` None).
    ``missed`` (r,) is the squared error planned for each coefficient. Fields ``in_one`` array are
    those of variables of few points. What the modes of a ``hybrid`` leave is coded besides, but
    for about ``lost`` (V,) of the squared error.
    """

    pod: ArchivePOD
    fields: tuple[LazyTiles | None, ...]
    tiles: tuple[tuple[int, ...], ...]
    chosen: Allocation | None
    missed: Matrix
    field_bits: Matrix
    shared_bits: Matrix
    in_one: SharedTiles | None = None
    hybrid: bool = False
    lost: Matrix = field(default_factory=lambda: np.zeros(0))

    @property
    def bits(self) -> float:
        return self.chosen.bits if self.chosen else np.inf

    @property
    def live(self) -> list[int]:
        """Numbers of the variables that have fields."""
        return _live(self.fields)

    @property
    def together(self) -> tuple[int, ...]:
        """Numbers of those whose fields are in one array."""
        return self.in_one.numbers if self.in_one else ()


@dataclass(frozen=True)
class CodedFields:
    """Fields as planned, coded on trial, and what is known of their error.

    ``steps`` (V,) are the quantisation steps in the units of each variable; ``a`` (m, r) the
    coefficients, which are left ``tolerances`` by the variables that have fields; ``step`` is
    that of the coefficients. ``products`` are inner products of what is lost and kept of the fields
    of each of these variables (`romzarr.chunked.fields.code_tile`). ``contents`` are the coded
    tiles of each variable whose fields are its own, on the workers that coded them.
    """

    plan: FieldsPlan
    rank: int
    steps: tuple[float, ...]
    step: float
    a: Table
    tolerances: Tolerances
    products: Mapping[int, Gram]
    contents: Mapping[int, Sequence[Delayed]]

    @property
    def codings(self) -> tuple[Coding, ...]:
        """How each variable is coded."""
        norms = self.plan.pod.norms
        others = (Coding.CONSTANT if n.fluctuation == 0 else Coding.DIRECT for n in norms)
        with_fields = Coding.HYBRID if self.plan.hybrid else Coding.POD
        return tuple(
            with_fields if fields is not None else other
            for fields, other in zip(self.plan.fields, others, strict=True)
        )


def _live(fields: Sequence[LazyTiles | None]) -> list[int]:
    return [v for v, each in enumerate(fields) if each is not None]


def _in_one(
    archive: Archive, pod: ArchivePOD, lazy: Sequence[LazyTiles | None]
) -> SharedTiles | None:
    """The first of the variables with few points, as far as one array may hold their fields."""
    found, values = dict[int, LazyTiles](), 0
    for v, fields in enumerate(lazy):
        if fields is None:
            continue
        points = math.prod(archive.variables[v].space_shape)
        more = points * (pod.modes + 1)
        if points <= FEW_POINTS and pod.masks[v] is None and values + more <= SHARED_VALUES:
            found[v] = fields
            values += more
    return SharedTiles.of(found) if len(found) > 1 else None


def plan_fields(
    archive: Archive, pod: ArchivePOD, without: frozenset[int] = frozenset()
) -> FieldsPlan:
    """Rank and steps with which a store is smallest within the bound. Runs Dask.

    Parameters
    ----------
    archive : Archive
    pod : ArchivePOD
    without : set of int
        Variables that are to be coded in another way. Constant ones have no fields anyway.
    """
    numbers = range(len(archive.variables))
    live = [v for v in numbers if pod.norms[v].fluctuation > 0 and v not in without]
    if without:
        pod = pod.without(without)
    tiles, lazy = _lazy(archive, pod, live)
    missed, bits, shared = np.zeros(0), np.zeros(len(lazy)), np.zeros(len(lazy))
    if not live:
        return FieldsPlan(pod, lazy, tiles, Allocation(0, 0.0, (), 0.0), missed, bits, shared)
    if not pod.modes:
        return FieldsPlan(pod, lazy, tiles, None, missed, bits, shared)
    in_one = _in_one(archive, pod, lazy)
    found, latent, chosen = _allocated(lazy, in_one, pod, live)
    if chosen is not None:
        missed = latent.errors_at(chosen.latent)[: chosen.rank]
        bits[live] = _field_bits(found, chosen)
        shared = _shared_bits(pod, latent, chosen)
    return FieldsPlan(pod, lazy, tiles, chosen, missed, bits, shared, in_one)


def plan_hybrid(archive: Archive, pod: ArchivePOD, steps: Mapping[int, float]) -> FieldsPlan:
    """All modes of a POD for variables of which the rest is coded as values. Runs Dask.

    The bits of modes, coefficients and values are fewest where the slope of error over bits is
    the same everywhere, so they have the same steps.

    Parameters
    ----------
    archive : Archive
    pod : ArchivePOD
        The leading modes.
    steps : mapping of int to float
        For the number of each of these variables the step of its values.
    """
    live, rank = sorted(steps), pod.modes
    tiles, lazy = _lazy(archive, pod, live)
    found, latent = _rates(lazy, None, pod, rank), _latent_rates(pod, rank)
    own = np.array([steps[v] for v in live])
    shares = pod.energies[live] / pod.sigma**2
    alike = float(np.mean(own**-2 @ shares)) ** -0.5
    places = [position_of(steps[v], pod.norms[v].fluctuation) for v in live]
    chosen = Allocation(rank, position_of(alike, 1.0), tuple(places), 0.0)
    (bits, lost), shared = np.zeros((2, len(lazy))), _shared_bits(pod, latent, chosen)
    bits[live] = _field_bits(found, chosen)
    chosen = replace(chosen, bits=float((bits + shared).sum()))
    missed = latent.errors_at(chosen.latent)
    lost[live] = shares @ missed
    lost[live] += [f.errors_at(place).sum() for f, place in zip(found, places, strict=True)]
    return FieldsPlan(pod, lazy, tiles, chosen, missed, bits, shared, hybrid=True, lost=lost)


def _lazy(
    archive: Archive, pod: ArchivePOD, live: Sequence[int]
) -> tuple[tuple[tuple[int, ...], ...], tuple[LazyTiles | None, ...]]:
    """The shapes of tiles of all variables, and the tiles of fields of the `live` ones."""
    tiles = tuple(tile_shape(v.space_shape, pod.modes, v.longest_space) for v in archive.variables)
    lazy = tuple(
        lazy_fields(pod.held, v, archive.variables[v], tiles[v]) if v in live else None
        for v in range(len(tiles))
    )
    return tiles, lazy


def _field_bits(found: Sequence[Rates], chosen: Allocation) -> list[float]:
    """Bits of the mean and the modes of each variable."""
    rows = slice(chosen.rank + 1)
    return [
        Rates(each.errors[rows], each.bits[rows]).bits_at(place)
        for each, place in zip(found, chosen.fields, strict=True)
    ]


def _shared_bits(pod: ArchivePOD, latent: Rates, chosen: Allocation) -> Matrix:
    """Bits of coefficients, by the energy of their modes in each variable (V,)."""
    of_modes = latent.bits[: chosen.rank, round(chosen.latent)] + MODE_BITS
    parts = pod.scales[:, None] * (pod.energies / pod.sigma**2)[:, : chosen.rank]
    return np.asarray(parts @ of_modes)


def _allocated(
    lazy: Sequence[LazyTiles | None],
    in_one: SharedTiles | None,
    pod: ArchivePOD,
    live: Sequence[int],
) -> tuple[list[Rates], Rates, Allocation | None]:
    """Rank and steps of the `live` variables, and the rates of fields and coefficients.

    Rates are of the modes up to the largest rank that is tried. There may be far more: noise of
    any one variable asks for as many as it has points.
    """
    energies, dropped = pod.energies[live], pod.dropped[live]
    allowed = np.maximum(pod.budget.allowed - pod.apart, 0.0)[live] ** 2 - dropped**2
    tail = tails(energies)
    most = TRIED * int(np.argmax(np.all(tail <= allowed[:, None], axis=0))) + MORE
    while True:
        most = min(most, pod.modes)
        found, latent = _rates(lazy, in_one, pod, most), _latent_rates(pod, most)
        chosen = allocate(
            found,
            latent,
            (energies / pod.sigma**2)[:, :most],
            energies[:, :most],
            allowed - tail[:, most],
            dropped,
            MODE_BITS,
        )
        if most == pod.modes or (chosen is not None and chosen.rank <= INNER * most):
            return found, latent, chosen
        most *= TRIED


def allocate_fields(archive: Archive, plan: FieldsPlan) -> CodedFields:
    """Code all fields as planned, and measure what is lost. Runs Dask.

    With it comes every inner product that the bound needs; should what is lost leave too
    little to the coefficients, steps are lowered.

    Raises
    ------
    AccuracyError
        If no step leaves the coefficients anything.
    """
    pod, live, chosen = plan.pod, plan.live, plan.chosen
    if chosen is None:
        raise _no_room(archive, live)
    steps = np.zeros(len(plan.fields))
    steps[live] = [
        step_of(place, pod.norms[v].fluctuation)
        for place, v in zip(chosen.fields, live, strict=True)
    ]
    _shorten(steps, live)
    planned = (pod.energies[live] / pod.sigma**2)[:, : chosen.rank] @ plan.missed
    contents = dict[int, Sequence[Delayed]]()
    products = _coded(plan, chosen.rank, steps, live, contents)
    products = {v: products[v] for v in live}
    for attempt in range(MOST_ATTEMPTS):
        tolerances = _tolerances(pod, chosen.rank, products)
        if plan.hybrid:
            # Whatever these modes miss, values make up for.
            enough = np.hypot(tolerances.truncation, tolerances.tree + np.sqrt(planned))
            tolerances = replace(tolerances, allowed=enough)
        short = tolerances.for_coding() < LEAST_SHARE * planned
        if not short.any():
            return CodedFields(
                plan=plan,
                rank=chosen.rank,
                steps=tuple(steps.tolist()),
                step=step_of(chosen.latent, 1.0),
                a=pod.coefficients(chosen.rank),
                tolerances=tolerances,
                products=products,
                contents=contents,
            )
        again = np.array(live)[short]
        steps[again] *= LOWERED ** (attempt + 1)
        _shorten(steps, live)
        products |= _coded(plan, chosen.rank, steps, again.tolist(), contents)
    raise _no_room(archive, again.tolist())


def _shorten(steps: Matrix, numbers: Sequence[int]) -> None:
    """Round steps, which metadata have as texts, to `STEP_DIGITS` digits, in place."""
    for v in numbers:
        steps[v] = float(f"{steps[v]:.{STEP_DIGITS}g}")


def _rates(
    lazy: Sequence[LazyTiles | None], in_one: SharedTiles | None, pod: ArchivePOD, modes: int
) -> list[Rates]:
    """Rates of the mean and the leading modes of each variable that has fields. Runs Dask."""
    turn, units = delayed(pod.turn[:, :modes]), [norm.fluctuation for norm in pod.norms]
    together = in_one.numbers if in_one else ()
    alone = [v for v in _live(lazy) if v not in together]
    tasks = [
        fields.map(tile_rates, turn, units[v]) for v in alone if (fields := lazy[v]) is not None
    ]
    found = dict(zip(alone, sums(tasks), strict=True))
    if in_one:
        task = in_one.task(shared_rates, turn, [units[v] for v in together])
        found |= zip(together, dask.compute(task)[0], strict=True)
    return [found[v] for v in _live(lazy)]


def _latent_rates(pod: ArchivePOD, modes: int) -> Rates:
    """Rates of the coefficients of the leading modes, as if no model foretold them. Runs Dask."""
    task = delayed(_rates_in_time, pure=False)
    found: list[Rates] = sums([[task(block) for block in pod.coefficients(modes).blocks]])
    return found[0]


def _rates_in_time(a: Matrix) -> Rates:
    """Rates of coefficients (m, r) of some time, each along it."""
    return rates(np.ascontiguousarray(a.T), (0, depth(len(a))), 1.0)


def _coded(
    plan: FieldsPlan,
    rank: int,
    steps: Matrix,
    numbers: Sequence[int],
    contents: dict[int, Sequence[Delayed]],
) -> dict[int, Gram]:
    """Code some variables into `contents`; inner products of what is lost and kept. Runs Dask.

    Variables together are coded together.
    """
    turn, dtype, found = delayed(plan.pod.turn), plan.pod.budget.basis, dict[int, Gram]()
    alone = [v for v in numbers if v not in plan.together]
    for v in alone:
        fields = plan.fields[v]
        tasks = fields.map(code_tile, turn, rank, float(steps[v]), dtype) if fields else []
        contents[v], found[v] = kept_and_summed(tasks)
    if plan.in_one and len(alone) < len(numbers):
        own = steps[list(plan.together)].tolist()
        task = plan.in_one.task(shared_products, turn, rank, own, dtype)
        found |= zip(plan.together, dask.compute(task)[0], strict=True)
    return found


def _tolerances(pod: ArchivePOD, rank: int, products: Mapping[int, Gram]) -> Tolerances:
    """What the coefficients may be off, with the fields as they will be decoded."""
    live = list(products)
    lost, kept = slice(pod.modes + 1), slice(pod.modes + 1, None)
    per_sigma = np.append(np.ones(pod.modes + 1), 1 / pod.sigma[:rank])
    scaled = [each.scaled(per_sigma) for each in products.values()]
    return Tolerances(
        roots=tuple(each.part(kept).root for each in scaled),
        allowed=np.maximum(pod.budget.allowed - pod.apart, 0.0)[live],
        tree=pod.dropped[live],
        truncation=np.sqrt([each.part(lost).energies.sum() for each in scaled]),
        mixed=tuple(each.between(kept, lost) for each in scaled),
    )


def _no_room(archive: Archive, numbers: Sequence[int]) -> AccuracyError:
    names = ", ".join(repr(archive.variables[v].name) for v in numbers[:NAMED])
    names += f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return AccuracyError(
        f"variables {names}: no quantisation step keeps the tolerance; raise compression.tolerance"
    )
