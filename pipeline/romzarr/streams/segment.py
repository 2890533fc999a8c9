"""The segment of a stream that is still open: what has come since the last one was sealed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from romzarr.compression.pod import Earlier
from romzarr.compression.write_pod import write_factored
from romzarr.compression.write_store import write_latent
from romzarr.config import Config
from romzarr.contracts import MIN_SNAPSHOTS, BlockSpan, Mask, Matrix, Vector
from romzarr.errors import AccuracyError, ArchiveError, GapsError
from romzarr.numerics.pod.incremental import IncrementalPOD, PODState
from romzarr.numerics.triangles import square_r
from romzarr.store.reading.reader import CoefficientStore
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams.blocks import Frame, Variables, check_follows, elapsed
from romzarr.streams.chain import chain_of, mean_of, modes_of
from romzarr.streams.continued import Continued, continuations
from romzarr.streams.parts import (
    LiveModel,
    live_model,
    relative_errors,
    running_facts,
    write_running_fields,
)
from romzarr.streams.reduction import StreamReduction
from romzarr.streams.running import code_coefficients, code_modes
from romzarr.streams.sealing import bytes_foretold, factored
from romzarr.streams.series import Series

# A segment is full when its coefficients are more numbers than its modes and than so many, or
# its modes take so many bytes: memory does not depend on the length of the stream. Of modes that
# reduce nothing few are left when it is sealed, so it may hold more.
LEAST_HELD, LEAST_HELD_OF_NOISE, MOST_BYTES = 1 << 18, 1 << 20, 1 << 28
# Sizes of values and of fluctuations that a stream takes: sums of squares, and shares of them,
# are far from the ends of float64.
SMALLEST, LARGEST = 1e-130, 1e140


class OpenSegment:
    """Basis, coefficients and model of the newest snapshots, and what of them is written.

    Parameters
    ----------
    frame : Frame
    config : Config
    earlier : Earlier
        What the snapshots before count.
    forgetting : float
        As of `romzarr.streams.reduction.StreamReduction`.
    after : optional
        The last time before.
    bound : float, optional
        Relative error that all snapshots together may have. Default: the tolerance of the settings,
        by which these are coded.
    masked : (n,) bool, optional
        Points that have no numbers. Default: those of the first snapshot.

    Attributes
    ----------
    written : int
        Snapshots in the parts that are in the store.
    beginning : list of Variables
        All blocks so far, while they are too few to be sealed and none is in the store.
    """

    def __init__(
        self,
        frame: Frame,
        config: Config,
        earlier: Earlier,
        forgetting: float = 1.0,
        after: Any = None,
        bound: float | None = None,
        masked: Mask | None = None,
    ) -> None:
        self.frame, self._config, self._earlier = frame, config, earlier
        self._masked, self.after, self.beginning = (
            masked,
            after,
            list[Variables](),
        )
        self._bound = config.compression.tolerance if bound is None else bound
        self._last_time = after
        self._series = Series(frame.dim)
        self.reduction = StreamReduction(
            config.compression.tolerance,
            inner=frame.inner,
            config=config,
            forgetting=forgetting,
            fluctuation=earlier.fluctuation,
            spent=earlier.fluctuation - earlier.spare(config.compression.tolerance),
        )
        self.written = 0
        # What the parts in the store rest on: modes, moves of the basis, variables that vary.
        self._modes, self._cuts, self._varying = 0, 0, np.zeros(0, bool)
        # Squared error (V,) that coding their coefficients made.
        self._coded = np.zeros(len(frame.variables))

    @property
    def pod(self) -> IncrementalPOD:
        return self.reduction.pod

    @property
    def snapshots(self) -> int:
        return len(self._series)

    @property
    def last_time(self) -> Any:
        return self._last_time

    @property
    def is_full(self) -> bool:
        if not self.can_be_sealed:
            return False
        held = self.pod.modes.size
        least = LEAST_HELD if self.reduction.reduces else LEAST_HELD_OF_NOISE
        return self.snapshots * self.pod.rank > max(least, held) or 8 * held > MOST_BYTES

    @property
    def can_be_sealed(self) -> bool:
        """Whether there are enough snapshots for a model."""
        return self.snapshots >= MIN_SNAPSHOTS

    @property
    def rests_on_parts(self) -> bool:
        """Whether what is new only adds to the parts that are in the store."""
        same = np.array_equal(self._varying, self.pod.fluctuation > 0)
        return self.written > 0 and self._cuts == self.reduction.cuts and same

    def take(self, block: Variables) -> int:
        """Take the snapshots of a block, and return how many they are.

        Raises
        ------
        GapsError
            If values are infinite, or NaN comes or goes. Then nothing was taken.
        ArchiveError
            If they do not fit those before, or cannot be compressed.
        """
        count = self.frame.length(block)
        if count:
            rows = self.frame.rows(block)
            self._check_gaps(rows)
            stamps, changing = self._stamps(block, count), self.frame.changing(block)
            self._check_scale(rows)
            self.reduction.update(rows, stamps)
            self._series.append(changing, count)
            if self.can_be_sealed or self.written:
                self.beginning.clear()
            else:
                # Copies: who gives a block may write over it.
                self.beginning.append({**changing, **self.frame.values(block)})
        return count

    @property
    def masked(self) -> Mask | None:
        """Points (n,) that have no numbers; None before any are known."""
        if not self.snapshots:
            return self._masked
        return np.zeros(len(self.pod.origin), bool) if self.pod.valid is None else ~self.pod.valid

    def _check_gaps(self, rows: Matrix) -> None:
        """Refuse values (b, n) with gaps: not finite, or finite, where they were not before."""
        masked = self.masked
        # One sum tells of most blocks that every value is finite.
        if np.isfinite(rows.sum()) and (masked is None or not masked.any()):
            return
        missing = np.isnan(rows)
        gaps = (missing != (missing[0] if masked is None else masked)) | np.isinf(rows)
        for variable, part in zip(self.frame.variables, self.frame.edges, strict=True):
            if found := np.count_nonzero(gaps[:, part]):
                raise GapsError(
                    f"variable {variable.name!r}: {found} values are missing that were not "
                    "before, or were missing before, or are infinite; fill them, or leave the "
                    "points out"
                )

    def _check_scale(self, rows: Matrix) -> None:
        """Refuse values (b, n) whose squares, or those of their fluctuations, leave float64."""
        pod, begun = self.pod, self.snapshots > 0
        for v, (variable, part) in enumerate(
            zip(self.frame.variables, self.frame.edges, strict=True)
        ):
            if variable.dtype.itemsize < rows.itemsize:
                continue
            values = rows[:, part]
            with np.errstate(over="ignore"):
                moved = values - (pod.origin[part] if begun else values[0])
            largest, apart = (np.nanmax(np.abs(x), initial=0.0) for x in (values, moved))
            still = not begun or pod.fluctuation[v] < SMALLEST**2
            if LARGEST < largest < np.inf or (still and 0 < apart < SMALLEST):
                raise ArchiveError(
                    f"variable {variable.name!r}: found values up to {largest:.3g} that fluctuate "
                    f"by {apart:.3g}, which cannot be squared in float64, allowed are "
                    f"{SMALLEST:g} to {LARGEST:g}; multiply the variable by a power of ten"
                )

    def _stamps(self, block: Variables, count: int) -> Vector:
        """Times (b,) of a block as numbers, counted from the first of the segment."""
        dim = self.frame.dim
        if dim not in self.frame.archive.carried.coords:
            return np.arange(self.snapshots, self.snapshots + count, dtype=np.float64)
        if dim not in block:
            raise ArchiveError(f"this block has no coordinate {dim!r}, as the first had")
        times = block[dim].values
        check_follows(self._last_time, times, dim)
        self._last_time = times[-1]
        ends = self._series.ends(dim)
        return elapsed(times, times[0] if ends is None else ends[0])

    # --- writing ----------------------------------------------------------------------------

    def write_part(self, writer: StoreWriter, extends: str | None) -> dict[str, Any]:
        """Write what is new, or everything where nothing is extended; returns the facts.

        Coded finer than the bound asks for, as it is to be coded once more.
        """
        pod, tolerance = self.pod, self._config.compression.tolerance
        start, first = (self.written, self._modes) if extends else (0, 0)
        fields, scales = code_modes(pod, self.frame, first, tolerance)
        write_running_fields(writer, self.frame, pod, fields, scales, extends is None)
        coded, lost = None, np.zeros_like(self._coded) if extends is None else self._coded
        if pod.rank:
            a = self.reduction.a[start:]
            coded, missed = code_coefficients(a, pod, tolerance, lost)
            lost = lost + missed
        archive = self.frame.span(self._series, start)
        model = LiveModel(self.reduction.library, self.reduction.model)
        write_latent(writer, archive, coded)
        self._coded, self.written, self._modes = lost, self.snapshots, pod.rank
        self.beginning.clear()
        self._cuts, self._varying = self.reduction.cuts, pod.fluctuation > 0
        all_lost = (np.sqrt(pod.lost) + np.sqrt(lost)) ** 2
        errors = relative_errors(self.frame, pod, all_lost, self._earlier)
        self._check_bound(errors)
        found = running_facts(archive, pod, pod.rank, errors, model, self._config)
        return found | ({"extends": extends} if extends else {})

    def _check_bound(self, errors: Mapping[str, float]) -> None:
        """Refuse a variable whose fluctuation is so near to rounding that coding loses it."""
        tolerance = self._bound
        for variable, total in zip(self.frame.variables, self.pod.fluctuation, strict=True):
            error = errors[variable.name]
            if not error <= tolerance:
                raise AccuracyError(
                    f"variable {variable.name!r}: a fluctuation of norm {total**0.5:.3g} is next "
                    f"to the rounding of float64: coded it is off by {error:.3g} of it, above the "
                    f"tolerance {tolerance:g}; raise compression.tolerance, or commit once it has "
                    f"fluctuated more"
                )

    @property
    def state(self) -> dict[str, Any]:
        """What a resume cannot find in the arrays of the parts."""
        return {
            "lost": ((np.sqrt(self.pod.lost) + np.sqrt(self._coded)) ** 2).tolist(),
            "left": self.pod.left.tolist(),
            "earlier": [self._earlier.fluctuation.tolist(), self._earlier.lost.tolist()],
        }

    def continued(self, store: CoefficientStore, opened: int) -> Continued | None:
        """The smallest way to go on with the modes of the part before the `opened` ones, which
        are this segment; None if it can be sealed with fewer bytes, or there is no way."""
        pod, tolerance = self.pod, self._config.compression.tolerance
        chain = chain_of(store, self.frame, opened)
        if chain is None or self.masked is None or (chain.masked != self.masked).any():
            return None
        if pod.is_exact:
            pod.settle()
        a = self.reduction.a
        found = list(continuations(pod, a, self.frame, chain, self._earlier, tolerance))
        if not found:
            return None
        fixed = chain.fixed_bytes
        best = min(found, key=lambda each: each.nbytes + (0 if each.tail else fixed))
        archive = self.frame.span(self._series)
        sealed = factored(archive, self.frame, pod, a, self._earlier, self._config)
        alone = bytes_foretold(archive, sealed, tolerance) + (fixed if best.tail else 0)
        return best if best.nbytes < alone else None

    def write_continued(self, writer: StoreWriter, coded: Continued) -> dict[str, Any]:
        """Write the segment in the modes of parts before it; returns the facts."""
        series = Series(self.frame.dim)
        if coded.tail:
            series.append(coded.tail.changing, len(coded.tail.a))
        series.append(self._series.variables(), self.snapshots)
        archive, pod = self.frame.span(series), self.pod
        write_running_fields(
            writer, self.frame, pod, coded.fields, coded.scales, False, coded.dtype
        )
        model = live_model(coded.a, archive.time.values, self._config)
        write_latent(writer, archive, coded.latent)
        names = [variable.name for variable in self.frame.variables]
        errors = dict(zip(names, coded.errors.tolist(), strict=True))
        rank = coded.a.shape[1]
        facts = running_facts(archive, pod, rank, errors, model, self._config, coded.dtype)
        return facts | {"extends": coded.extends}

    def write_sealed(self, writer: StoreWriter) -> dict[str, Any]:
        """Write the segment as `romzarr.compress` would; returns the facts."""
        pod, archive = self.pod, self.frame.span(self._series)
        if pod.is_exact:
            pod.settle()
        a = self.reduction.a
        found = factored(archive, self.frame, pod, a, self._earlier, self._config)
        tolerance = self._config.compression.tolerance
        return dict(write_factored(writer, archive, found, self._config, tolerance).facts)


def earlier_of(facts: Mapping[str, Any], frame: Frame) -> Earlier:
    """What all snapshots of a store count, by what its newest part says."""
    names = [variable.name for variable in frame.variables]
    total = np.array([facts["fluctuation"][name] for name in names])
    errors = np.array([facts["relative_l2_error"][name] for name in names])
    return Earlier(total, errors**2 * total)


def resumed(
    store: CoefficientStore,
    frame: Frame,
    config: Config,
    opened: int,
    forgetting: float = 1.0,
    bound: float | None = None,
) -> OpenSegment:
    """The open segment that the last `opened` parts of a store are, with decoded basis and
    coefficients."""
    last, state = store.last, store.facts["stream"]
    start, parts = int(store.starts[-1 - opened]), store.parts[-opened:]
    fluctuation, lost = (np.array(each, np.float64) for each in state["earlier"])
    segment = OpenSegment(frame, config, Earlier(fluctuation, lost), forgetting, bound=bound)
    names = [variable.name for variable in frame.variables]
    a = np.concatenate(
        [
            np.pad(
                part.latent.span(BlockSpan(0, part.snapshots)), ((0, 0), (0, last.rank - part.rank))
            )
            for part in parts
        ]
    )
    decoded = xr.open_dataset(store.url, engine="romzarr").isel({frame.dim: slice(start, None)})
    segment._series.append(frame.changing(decoded.variables), len(a))
    times: Vector = np.arange(len(a), dtype=np.float64)
    if frame.dim in decoded.coords:
        stamps = decoded[frame.dim].values
        times, segment._last_time = elapsed(stamps, stamps[0]), stamps[-1]
    pod_state = PODState(
        origin=np.concatenate([mean_of(last, frame, v) for v in frame.variables]),
        modes=np.concatenate([modes_of(last, frame, v) for v in frame.variables], axis=1),
        triangle=square_r(np.concatenate([np.ones((len(a), 1)), a], axis=1)),
        fluctuation=np.array([store.facts["fluctuation"][name] for name in names]),
        lost=np.array(state["lost"], np.float64),
        left=np.array(state["left"], np.float64),
    )
    segment.reduction.resume(pod_state, a, times)
    segment.written, segment._modes = len(a), last.rank
    segment._varying = segment.pod.fluctuation > 0
    return segment
