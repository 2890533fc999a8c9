"""Which parts of a store are put together, when, and what of the bound that may use.

Errors of what is coded several times add up, so every snapshot can be coded anew only a few times,
and each time uses up a part of its bound. Appended snapshots use a fifth of it. Those are put
together for good after thirty nights, with all that is left. Before, they are put together like the
levels of a log-structured merge tree: whenever as many have come as there were, so each of them a
few times at most. A tenth of the bound is enough for that, and leaves most for the thirtieth night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from romzarr.compression.joined_errors import errors_after
from romzarr.compression.remaining_values import RemainingValues
from romzarr.config import Compaction
from romzarr.contracts import MIN_SNAPSHOTS
from romzarr.recorded_config import config_of
from romzarr.store.reading.facts import ERRORS_BY_INDEX
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.reader import CoefficientStore

# Where the facts on the source count the appends.
APPENDS = "appends"
# Share of the bound that snapshots use which are appended. The rest is left for putting parts
# together. Of an open wake (tests/benchmarks/STREAMING.md) in 30 nights a half would take a quarter
# more bytes once they are; an eighth saves 4 %, for parts a third larger until then.
PART_SHARE = 0.2
# Appends put parts together for good after so many of them: what the oldest part lost is then so
# little of all that numbers take half a bit more than at once, which a later time would not better
# much. Or once there are so many parts: opening them takes requests.
NIGHTS, MOST_PARTS = 30, 32
# Share of the bound that an early merge may use. After four of them the thirtieth night has 0.57 of
# the bound left in place of 0.73, and a growing wake takes 7 % more bytes than without them.
EARLY_SHARE = 0.1
# Share of the bound that has to be left for putting parts together: numbers take two bits more.
ENOUGH_LEFT = 0.25
# An early merge has to be of such a share of the bytes of the store: smaller ones saved an eighth
# of an atmosphere before its thirtieth night, for a third more time.
LARGE_SHARE = 0.5
# What appends keep has to take at most such a share of the bytes of the parts.
WORTHWHILE = 0.75


@dataclass(frozen=True)
class Merge:
    """Parts to be put together: all but so many of the oldest, which it is to ``keep``.

    It may use a ``share`` of the bound, or what is left if that is less, and is done if it takes
    ``worth`` times the bytes of the parts at most.
    """

    keep: int
    share: float
    worth: float

    @property
    def is_early(self) -> bool:
        """Whether the same snapshots are to be put together with more later."""
        return self.share < 1

    def recorded(self, opened: CoefficientStore) -> Mapping[str, Any]:
        """Facts of the store, with the errors of these parts alone."""
        if not self.keep:
            return opened.facts
        return {**opened.facts, **errors_after(opened.parts[self.keep - 1].facts, opened.facts)}

    def values(self, opened: CoefficientStore) -> RemainingValues:
        """What these parts have left of the bounds on single values."""
        parts = [part.facts for part in opened.parts[self.keep :]]
        return RemainingValues.of(config_of(opened).compression, parts)

    def left(self, opened: CoefficientStore) -> float:
        """Least share of a bound that is left of any variable or index, as far as facts tell."""
        facts = self.recorded(opened)
        errors = [*facts["relative_l2_error"].values()]
        for each in facts.get(ERRORS_BY_INDEX, {}).values():
            errors += each["errors"]
        spent = max(errors, default=0.0) / float(facts["tolerance"])
        return min(1 - spent, self.values(opened).left)


def whole_merge(opened: CoefficientStore, worth: float = 1.0) -> Merge:
    """The merge for good: of all parts, but the fewest of the oldest without which enough is left.

    Of all, where that is so of none. What is spent is so joined again only when several times as
    much has come, as the levels of a log-structured merge tree are.
    """
    every = (Merge(keep, 1.0, worth) for keep in range(len(opened.parts) - 1))
    fit = (merge for merge in every if _has_left(opened, merge, ENOUGH_LEFT))
    return next(fit, Merge(0, 1.0, worth))


def due_merge(before: CoefficientStore, opened: CoefficientStore) -> Merge | None:
    """The merge that is due after an append to the store that was there `before`.

    One for good after 30 appends (`NIGHTS`, the first compression among them) or with 32 parts
    (`MOST_PARTS`), and again each time that these numbers have doubled. An early one when as many
    snapshots have come as some part has, of that and the later ones. None where appends do not put
    parts together.
    """
    if not _is_automatic(opened):
        return None
    # What was reached while a part was open, as after few snapshots, could not be acted upon.
    closed = [part for part in before.parts if "stream" not in part.facts]
    if _reached(MOST_PARTS, len(closed), len(opened.parts)):
        return whole_merge(opened)
    if _reached(NIGHTS, 1 + _appends(closed), 1 + appends_of(opened)):
        return whole_merge(opened, WORTHWHILE)
    return _early_merge(opened, sum(part.snapshots for part in closed))


def part_share(opened: CoefficientStore) -> float:
    """Share of the bound that snapshots may use which are appended to a store.

    All of it, where parts are never put together.
    """
    return PART_SHARE if _is_automatic(opened) and not never_merged(opened) else 1.0


def appends_of(opened: CoefficientStore) -> int:
    """How often a store was appended to since it was compressed, or its parts were put together
    for good."""
    return _appends(opened.parts)


def never_merged(opened: CoefficientStore) -> str:
    """What always stands against putting parts together; empty: nothing."""
    compression = config_of(opened).compression
    if compression.tolerance == 0:
        return "it is lossless, so there is no bound to share"
    if compression.derivative_bounds:
        return "bounds on derivatives (compression.derivatives) are not kept by this yet"
    return ""


def _appends(parts: Sequence[Generation]) -> int:
    """How often a store was appended to when the last of these parts was written."""
    return int(parts[-1].facts.get("source", {}).get(APPENDS, 0)) if parts else 0


def _reached(mark: int, before: int, now: int) -> bool:
    """Whether a number has reached a mark, or that times a power of two."""
    return (now // mark).bit_length() > (before // mark).bit_length()


def _is_automatic(opened: CoefficientStore) -> bool:
    return config_of(opened).compression.compact == Compaction.AUTO


def _early_merge(opened: CoefficientStore, before: int) -> Merge | None:
    """The early merge that is due, when there were so many snapshots before the append."""
    for keep in range(len(opened.parts)):
        merge = Merge(keep, EARLY_SHARE, WORTHWHILE)
        if _has_grown(opened, keep, before) and _has_left(opened, merge, EARLY_SHARE):
            # What saves little of the whole store is not worth the time, nor the bound.
            is_large = _bytes_from(opened, keep) > LARGE_SHARE * _bytes_from(opened, 0)
            return merge if is_large else None
    return None


def _has_grown(opened: CoefficientStore, keep: int, before: int) -> bool:
    """Whether as many snapshots have come after a part as it has, or twice as many, and so on.

    The last part may itself have grown, night after night.
    """
    start, stop = (int(each) for each in opened.starts[keep : keep + 2])
    if stop < opened.snapshots:
        return _reached(stop - start, max(before - stop, 0), opened.snapshots - stop)
    return start < before < stop and _reached(stop - before, before - start, stop - start)


def _has_left(opened: CoefficientStore, merge: Merge, share: float) -> bool:
    """Whether the parts are long enough, and have left such a share of the bounds."""
    count = opened.snapshots - opened.starts[merge.keep]
    return bool(count >= MIN_SNAPSHOTS and merge.left(opened) >= share)


def _bytes_from(opened: CoefficientStore, keep: int) -> int:
    """Bytes of all parts but so many of the oldest."""
    names = tuple(part.name for part in opened.parts[keep:])
    return sum(size for path, size in opened.sizes().items() if path.startswith(names))
