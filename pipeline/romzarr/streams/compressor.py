"""A compressor of snapshots that come in blocks, while a simulation runs or night after night."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from numbers import Real
from types import TracebackType
from typing import Any, Self

import xarray as xr
from numpy.typing import ArrayLike
from threadpoolctl import ThreadpoolController, threadpool_limits

from romzarr.arguments import as_flag, as_whole, shown, wrong_type
from romzarr.compression.model import check_expressions
from romzarr.compression.pod import Earlier
from romzarr.compression.write_store import changed_settings
from romzarr.config import (
    TOLERANCE,
    Config,
    Settings,
    given_config,
    settled,
    with_values,
)
from romzarr.contracts import Mask, SparseModel
from romzarr.encoding import encoding_from_json
from romzarr.errors import ConfigError, GapsError, StoreError
from romzarr.recorded_config import config_of
from romzarr.reports import ErrorsByVariable
from romzarr.store import layout
from romzarr.store.reading.facts import errors_of
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams.blocks import Block, Frame, Variables, named
from romzarr.streams.continued import Continued
from romzarr.streams.held import HeldSnapshots, held_settings, needs_holding
from romzarr.streams.liveness import Signature, last_sign
from romzarr.streams.segment import OpenSegment, earlier_of, resumed

log = logging.getLogger(__name__)

# Snapshots after which the store is brought up to date.
COMMIT_STEPS = 1024
# Parts of an open segment: more are joined, or sealed.
MOST_OPEN = 32
# Numbers of modes from which several BLAS threads are worth it.
MANY_NUMBERS = 1 << 22


class StreamCompressor:
    """Compresses snapshots as they come, into a store that can be read all the time.

    The bound of `romzarr.compress` holds over the whole history after every update. Of the past
    only the basis and its coefficients are held: memory is bounded by these and two blocks,
    however long the stream is. The store appears with the first commit. Every commit brings it
    up to date in one step; whoever dies between two goes on from the first of them: open a
    compressor for the same store again, in any process on any machine. Until `close` the newest
    part is coded finer than asked for; then it is what `romzarr.compress` would have made.

    Snapshots with gaps, values that are missing at some times or infinite, are held as they are,
    and so are those that follow, until there are enough: 64 MB or `commit_steps`, but 16 at least.
    They become a part of their own, with exact gaps and the bound over all numbers.
    Bounds on single indices (``compression.per``), values (``max_error``) and sums, about a
    climatology, and layers take whole parts as well: with them all snapshots are held.

    Parameters
    ----------
    store : path or URL
        A new store, or one to go on with: a stream that was not closed, one that was, or what
        `romzarr.compress` wrote.
    tolerance : float, optional
        As in `romzarr.compress`, above 0; that of the store, if it exists.
    variables, weights, config, overwrite
        As in `romzarr.compress`. Of a store that exists its own settings are used.
    commit_steps : int
        Snapshots after which the store is brought up to date.
    forgetting : float in (0, 1], default 1
        What a window of time counts beside the next one in `model`; below 1 where the dynamics
        change. The models of a store are chosen when it is closed, block by block: that of all
        snapshots, that of the block (``weak_form.block_steps``), or none, by the bytes.
    source : callable, optional
        What gives facts on where so many snapshots are from.
    share : float in (0, 1], default 1
        What of the bound new snapshots may use. The rest is left for `romzarr.compact`.
    gaps : bool, default True
        Take snapshots with gaps; else they are refused.

    Attributes
    ----------
    snapshots : int
        All that the store will hold.
    committed : int
        Those that it holds already.

    Raises
    ------
    ConfigError
        If settings are asked for that a stream cannot keep, or that are not those of the store.
    StoreError
        If the store cannot be gone on with.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> t, x = np.arange(200) * 0.1, np.linspace(0, 1, 500)
    >>> u = np.outer(np.sin(t), np.sin(3 * x)) + np.outer(np.cos(t), np.cos(3 * x))
    >>> with StreamCompressor(tmp / "run.romzarr", tolerance=1e-3) as stream:
    ...     for k in range(0, 200, 8):
    ...         stream.update(u[k : k + 8], times=t[k : k + 8])
    >>> xr.open_dataset(tmp / "run.romzarr", engine="romzarr").x.shape
    (200, 500)
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        tolerance: float | None = None,
        variables: Sequence[str] | None = None,
        weights: str | None = None,
        config: Settings | None = None,
        overwrite: bool = False,
        commit_steps: int = COMMIT_STEPS,
        forgetting: float = 1.0,
        source: Callable[[int], Mapping[str, Any]] | None = None,
        share: float = 1.0,
        gaps: bool = True,
    ) -> None:
        self._target, self._overwrite = layout.normalised(store), as_flag(overwrite, "overwrite")
        self._commit_steps = as_whole(commit_steps, "commit_steps", least=1)
        self._source, self._forgetting = _facts_of(source), _share("forgetting", forgetting)
        self._store = None if self._overwrite else _existing(self._target)
        if self._store is None:
            self._made = settled(given_config(config), tolerance, None, variables, weights)
        else:
            self._made = _config_of(self._store, tolerance)
        _check_settings(self._made)
        # Settings by which snapshots are coded, and not those that the store was made with.
        self._bound = self._made.compression.tolerance
        finer = {TOLERANCE: _share("share", share) * self._bound}
        self._config = with_values(self._made, finer)
        self._segment: OpenSegment | None = None
        self._held: HeldSnapshots | None = None
        self._takes_gaps = as_flag(gaps, "gaps")
        self._opened, self._ended = 0, ""
        self.snapshots = self.committed = 0
        self._raw_bytes = 0
        self._signature = Signature()
        if self._store is not None:
            self._go_on(self._store)

    def _go_on(self, store: CoefficientStore) -> None:
        """Take up a store that exists: its open segment, or a new one after it."""
        if (seconds := last_sign(store.facts)) is not None:
            log.warning(
                "%s: another stream seems to be writing here, its last commit was %.0f s ago; if "
                "it is alive end one of them, since the commits of one are refused from now on",
                self._target,
                seconds,
            )
        self.snapshots = self.committed = store.snapshots
        self._raw_bytes = int(store.facts["raw_bytes"])
        self._opened = int(store.facts.get("stream", {}).get("parts", 0))
        if "fluctuation" not in store.facts:
            raise StoreError(
                f"{self._target}: nothing can be appended to a store that is lossless or has a "
                f"single snapshot; compress the archive anew"
            )
        dataset = xr.open_dataset(self._target, engine="romzarr")
        for name, stored in store.variables.items():
            # Those of the blocks, which do not know of the store's own loss.
            dataset[name].attrs = encoding_from_json(stored.attrs)
        last_part = store.last
        orders = [order.complete(last_part.arrays) for order in last_part.orders.values()]
        frame = Frame.of(dataset, self._config, orders)
        if self._opened:
            self._segment = resumed(
                store, frame, self._config, self._opened, self._forgetting, self._bound
            )
        else:
            last = dataset[frame.dim].values[-1] if frame.dim in dataset.coords else None
            self._segment = self._next(frame, last, None)

    # --- use --------------------------------------------------------------------------------

    def update(self, block: Block, times: ArrayLike | None = None) -> None:
        """Take the next snapshots.

        Parameters
        ----------
        block : Dataset, DataArray, or array (b, ...) of NumPy or Dask
            Any number of snapshots. A Dataset brings names, dims, coordinates and attributes,
            and all blocks have to have the same. An array becomes the variable "x" with the
            dims "time", "dim_1", ...
        times : (b,) array, optional
            Of an array; counted 0, 1, 2, ... without.

        Raises
        ------
        ArchiveError
            If it does not fit the blocks before, or holds what cannot be compressed. The store
            stays at the last commit, and the stream has ended, as with any error.
        AccuracyError
            As of `commit`.
        """
        self._check_usable()
        with self._ended_by_errors():
            with self._blas_threads():
                self._take(named(block, times, self.snapshots))
            if self._held is not None and self._held.is_full(self._commit_steps):
                self._write_held(self._held)
            elif self._segment is not None and self._segment.is_full:
                self._seal(self._segment)
            elif self.snapshots - self.committed >= self._commit_steps:
                self._commit()

    def commit(self) -> None:
        """Bring the store up to date in one step.

        Raises
        ------
        AccuracyError
            If rounding alone breaks the bound, as of what is at rest but for rounding.
        """
        self._check_usable()
        with self._ended_by_errors():
            self._commit()

    def _commit(self) -> None:
        segment = self._segment
        if self._held is not None:
            if self.snapshots > self.committed:
                self._write_held(self._held)
            return
        if segment is None or segment.snapshots == segment.written:
            return
        if self._opened < MOST_OPEN:
            self._write_part(segment, joined=not segment.rests_on_parts)
        elif segment.pod.is_exact or not segment.can_be_sealed:
            self._write_part(segment, joined=True)
        else:
            # Joined once more, parts of a former process would lose a little each time.
            self._seal(segment)

    def close(self) -> None:
        """Code what is open as it shall stay, and end the stream.

        As `romzarr.compress` would, or in the modes of the parts before it where that takes
        fewer bytes.

        Of fewer than five snapshots no model can be made: they stay as they are.
        """
        self._check_usable()
        with self._ended_by_errors():
            sealable = self._segment is not None and self._segment.can_be_sealed
            if self._segment is not None and sealable and self._held is None:
                self._seal(self._segment)
            else:
                self._commit()
        self._end("it is closed")

    @property
    def rank(self) -> int:
        """Modes in use."""
        return self._segment.pod.rank if self._segment else 0

    @property
    def model(self) -> SparseModel | None:
        """Sparse model of the segment so far, in time that does not depend on its length."""
        with self._blas_threads():
            return self._segment.reduction.model if self._segment else None

    @property
    def relative_l2_error(self) -> dict[str, float]:
        """Bound on the error of each variable at the last commit."""
        found = errors_of(self._store.facts, self._store.variables) if self._store else {}
        return ErrorsByVariable(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error the store stays at the last commit.
        if kind is None and not self._ended:
            self.close()

    @contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        """End the stream with any error: the basis may have moved from that of the last commit,
        so later blocks could not continue from there."""
        try:
            yield
        except BaseException as error:
            self._end(str(error) or type(error).__name__)
            raise

    def _end(self, why: str) -> None:
        self._ended = why
        self._signature.retire()

    def _check_usable(self) -> None:
        if self._ended:
            raise ConfigError(
                f"{self._target}: the stream has ended: {self._ended}; open it again to go on "
                f"from snapshot {self.committed}, the last commit"
            )

    # --- blocks and parts -------------------------------------------------------------------

    def _take(self, block: xr.Dataset | Variables) -> None:
        if self._segment is None:
            first = block if isinstance(block, xr.Dataset) else xr.Dataset(block)
            frame = Frame.of(first, self._config)
            self._segment = self._next(frame, None, None)
            self._raw_bytes = frame.fixed_bytes
        variables = block.variables if isinstance(block, xr.Dataset) else block
        count = self._taken(self._segment, variables)
        self.snapshots += count
        self._raw_bytes += count * self._segment.frame.snapshot_bytes

    def _taken(self, segment: OpenSegment, block: Variables) -> int:
        """Give a block to the segment, or hold it."""
        if self._held is None and not self._holds_all:
            try:
                return segment.take(block)
            except GapsError:
                if not self._takes_gaps:
                    raise
        if self._held is None:
            self._held = self._holding(segment)
        return self._held.take(block)

    @property
    def _holds_all(self) -> bool:
        return needs_holding(self._made, self._store.facts if self._store else {})

    def _holding(self, segment: OpenSegment) -> HeldSnapshots:
        """End the segment, or take over what has just begun."""
        begun = list(segment.beginning)
        if segment.can_be_sealed:
            self._seal(segment)
        elif not begun:
            self._commit()
        facts = self._store.facts if self._store else None
        held = HeldSnapshots(segment.frame, facts, segment.after if begun else segment.last_time)
        for block in begun:
            held.take(block)
        self._segment = self._next(segment.frame, held.last_time, segment.masked)
        return held

    def _write_held(self, held: HeldSnapshots) -> None:
        """Write what is held as one part, and go on without it once it is full."""
        root, config = self._store.root if self._store else None, self._config
        keep = len(root.parts) - held.parts if root else 0
        writer = partial(StoreWriter, self._target, self._overwrite, onto=root, keep=keep)
        facts = self._store.facts if self._store else {}
        with self._alone():
            held.write(writer, held_settings(config, facts), self._completed)
        self._written(0)
        held.parts = 1
        if held.is_full(self._commit_steps) and self._segment is not None and self._store:
            frame, self._held = self._segment.frame, None
            self._segment = self._next(frame, held.last_time, held.masked)

    def _next(self, frame: Frame, after: Any, masked: Mask | None) -> OpenSegment:
        """A new segment after all that is in the store."""
        earlier = (
            earlier_of(self._store.facts, frame)
            if self._store
            else Earlier.none(len(frame.variables))
        )
        return OpenSegment(
            frame, self._config, earlier, self._forgetting, after, self._bound, masked
        )

    def _blas_threads(self) -> AbstractContextManager[Any]:
        """One BLAS thread, unless modes are large: the work of an update is over before others
        have woken, and beside a simulation they would wait for its cores."""
        modes = self._segment.pod.modes.size if self.rank and self._segment else 0
        return nullcontext() if modes > MANY_NUMBERS else _blas().limit(limits=1, user_api="blas")

    def _write_part(self, segment: OpenSegment, joined: bool) -> None:
        """Write what is new of the segment as one more part, or all of it as the only one."""
        opened = 1 if joined else self._opened + 1
        with self._writer(self._opened if joined else 0) as writer:
            extends = None if joined or self._store is None else self._store.last.name
            facts = segment.write_part(writer, extends)
            stream = {"parts": opened, "writer": self._signature.signed(), **segment.state}
            writer.commit(self._completed(facts) | {"stream": stream})
        self._written(opened)

    def _seal(self, segment: OpenSegment) -> None:
        """Write the segment as it shall stay, in place of its parts, and open another."""
        coded = self._continued(segment)
        joined = 1 if coded and coded.tail else 0
        with self._writer(self._opened + joined) as writer:
            found = (
                segment.write_continued(writer, coded) if coded else segment.write_sealed(writer)
            )
            writer.commit(self._completed(found))
        self._written(0)
        self._segment = self._next(segment.frame, segment.last_time, segment.masked)

    def _continued(self, segment: OpenSegment) -> Continued | None:
        """How the segment goes on with the modes of the part before it, if that is smallest."""
        if self._store is None:
            return None
        with threadpool_limits(1, user_api="blas"):
            return segment.continued(self._store, self._opened)

    @contextmanager
    def _writer(self, replaced: int) -> Iterator[StoreWriter]:
        """Writes a part in place of the last `replaced` ones."""
        root = self._store.root if self._store else None
        keep = len(root.parts) - replaced if root else 0
        with (
            self._alone(),
            StoreWriter(self._target, self._overwrite, onto=root, keep=keep) as writer,
            # Tasks run side by side already; BLAS threads on top would fight for the cores.
            threadpool_limits(1, user_api="blas"),
        ):
            yield writer

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Say of a commit that is refused that another stream has come between, if it has."""
        try:
            yield
        except StoreError as error:
            if self._is_taken_over():
                raise StoreError(
                    f"{self._target}: was changed by another writer: a stream has taken the store "
                    f"over, and only one can write it. This one has ended at snapshot "
                    f"{self.committed}, its last commit; end the other and open the store again"
                ) from error
            raise

    def _is_taken_over(self) -> bool:
        try:
            return self._signature.is_other(open_store(self._target).facts)
        except (StoreError, OSError):
            return False

    def _completed(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Facts of a part with those of the whole store."""
        source = {"source": dict(self._source(self.snapshots))} if self._source else {}
        asked = {
            "tolerance": self._bound,
            "config": changed_settings(self._made),
        }
        return {**facts, **asked, "raw_bytes": self._raw_bytes, **source}

    def _written(self, opened: int) -> None:
        self._store, self._opened, self._overwrite = open_store(self._target), opened, False
        self.committed = self.snapshots


def _facts_of(source: Any) -> Any:
    if source is not None and not callable(source):
        raise wrong_type("source", source, "a function of the number of snapshots")
    return source


def _share(name: str, share: float) -> float:
    if not isinstance(share, Real) or not 0 < share <= 1:
        raise ConfigError(f"{name}: found {shown(share)}, allowed are numbers above 0 and up to 1")
    return float(share)


@cache
def _blas() -> ThreadpoolController:
    # Finding the libraries takes as long as an update does.
    return ThreadpoolController()


def _existing(url: str) -> CoefficientStore | None:
    """The store at `url`; None where nothing is."""
    try:
        layout.read_bytes(layout.joined(url, layout.ROOT))
    except FileNotFoundError:
        return None
    return open_store(url)


def _config_of(store: CoefficientStore, tolerance: float | None) -> Config:
    """The settings that a store was made with."""
    config = config_of(store)
    if tolerance not in (None, config.compression.tolerance):
        raise ConfigError(
            f"compression.tolerance: found {tolerance:g}, but {store.url} was made with "
            f"{config.compression.tolerance:g}; leave it out to go on with that"
        )
    return config


def _check_settings(config: Config) -> None:
    """Refuse what a stream cannot promise, before anything is read."""
    if config.compression.derivative_bounds:
        raise ConfigError(
            "compression.derivatives: a stream does not bound derivatives; leave it out, or use "
            "romzarr.compress and romzarr.append"
        )
    check_expressions(config)
    if config.compression.tolerance == 0:
        raise ConfigError(
            "compression.tolerance: found 0, allowed are numbers above 0: a stream is never "
            "lossless; use romzarr.compress"
        )
    if config.compression.max_rank != "auto":
        raise ConfigError("compression.max_rank: a stream needs 'auto'; use romzarr.compress")
