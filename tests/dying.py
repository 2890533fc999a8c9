"""Runs that die at a chosen step as if killed, in processes forked from a clean one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["romzarr.operations.reconstruct", "romzarr.operations.compact"])


class Dying:
    """Stands for a module, and ends this process before the `left`-th call of some functions."""

    def __init__(self, module: Any, names: tuple[str, ...], left: list[int]) -> None:
        self._module, self._names, self._left = module, names, left

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return dying(found, self._left) if name in self._names else found


def dying(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(*arguments: Any, **keywords: Any) -> Any:
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return call(*arguments, **keywords)

    return counted


def reconstruct(step: int, exchange: bool, store: str, out: str) -> None:
    """Replace what is at `out`, and die before the `step`-th change of a name there."""
    import dask

    import romzarr
    from romzarr.reconstruction import exchange as module

    left = [step]
    module.os = Dying(os, ("rename", "replace", "link"), left)
    module._exchanged = dying(module._exchanged, left) if exchange else lambda one, other: False
    module.remove_staging = dying(module.remove_staging, left)
    with dask.config.set(scheduler="synchronous"):
        romzarr.reconstruct(store, out, overwrite=True)


def compact(step: int, store: str) -> None:
    """Put the parts of a store together, and die before the `step`-th change of a file or name."""
    import dask

    import romzarr
    from romzarr.store import commit, staging

    left = [step]
    commit.os = Dying(os, ("rename", "replace"), left)
    commit.flush, commit.flush_tree = dying(staging.flush, left), dying(staging.flush_tree, left)
    commit.claim = dying(staging.claim, left)
    with dask.config.set(scheduler="synchronous"):
        romzarr.compact(store)


def status_of(target: Callable[..., None], *arguments: Any) -> int | None:
    """Exit status of a process that does this."""
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode
