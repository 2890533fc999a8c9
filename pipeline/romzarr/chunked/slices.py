"""Many like tasks, submitted few at a time: a scheduler pays for every task that it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import getitem
from typing import Any, TypeVar

import dask
from dask.delayed import Delayed, delayed

T = TypeVar("T")
Join = Callable[[Sequence[Any]], Any]

# Results of tiles that one task puts together.
SUMMANDS = 16
# Results of one slice. With what they are made of and put together by, no more than 10^5 tasks.
SLICE_RESULTS = 25_000


def slices(items: Iterable[T], most: int = SLICE_RESULTS) -> Iterator[list[T]]:
    """Parts of what may be made as it is asked for.

    >>> list(slices("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    left = iter(items)
    while some := list(islice(left, most)):
        yield some


def joined(results: Sequence[Delayed], join: Join, summands: int = SUMMANDS) -> Delayed:
    """What `join` makes of many results, in groups, so that no task gathers them all."""
    parts, task = list(results), delayed(join, pure=False)
    while len(parts) > 1:
        parts = [task(some) for some in slices(parts, summands)]
    return parts[0]


def gathered(results: Iterable[Delayed], join: Join, summands: int = SUMMANDS) -> Any:
    """What `join` makes of all results, here. Runs Dask, slice by slice.

    A task is given up to `summands` results, all of which a worker holds at a time.
    """
    parts = [dask.compute(joined(some, join, summands))[0] for some in slices(results)]
    return join(parts) if len(parts) > 1 else parts[0]


def summed(results: Sequence[Delayed]) -> Delayed:
    """Sum of many results, in groups, so that no task gathers them all."""
    return joined(results, added)


def sums(groups: Sequence[Sequence[Delayed]]) -> list[Any]:
    """Sum of each group of results, here. Runs Dask, slice by slice.

    Groups run side by side as far as a slice has room for them.
    """
    found: list[list[Any]] = [[] for _ in groups]
    numbered = ((number, result) for number, group in enumerate(groups) for result in group)
    for some in slices(numbered):
        parts: dict[int, list[Delayed]] = {}
        for number, result in some:
            parts.setdefault(number, []).append(result)
        values = dask.compute(*(summed(part) for part in parts.values()))
        for number, value in zip(parts, values, strict=True):
            found[number].append(value)
    return [added(parts) for parts in found]


def kept_and_summed(pairs: Sequence[Delayed]) -> tuple[list[Delayed], Any]:
    """Of pairs, the first parts where they were made, and the sum of the second, here.

    Runs Dask, slice by slice; each pair is made once.
    """
    kept, parts, part = list[Delayed](), [], delayed(getitem, pure=False)
    for some in slices(pairs):
        found = dask.persist(*(part(pair, 0) for pair in some), summed([part(p, 1) for p in some]))
        kept += found[:-1]
        parts += dask.compute(found[-1])
    return kept, added(parts)


def added(parts: Sequence[Any]) -> Any:
    return sum(parts[1:], parts[0])
