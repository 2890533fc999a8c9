"""Turns any error of an archive's reader into an `ArchiveError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from romzarr.errors import ArchiveError, PipelineError, refuse_blame

ADVICE = "restore it from a backup, correct its attributes, or leave it out"


@contextmanager
def unreadable(what: str, advice: str = ADVICE) -> Iterator[None]:
    """Turn foreign errors into messages that begin with `what` and end with `advice`.

    Raises
    ------
    ArchiveError
        Instead of any foreign error.
    ResourceError
        If the system lacks resources, which is not the archive's fault.
    """
    try:
        yield
    except PipelineError:
        raise
    except MemoryError as error:
        raise ArchiveError(f"{what}: not enough memory ({error})") from error
    # xarray, zarr, HDF5, codecs and calendars have many kinds of errors.
    except Exception as error:
        refuse_blame(error)
        raise ArchiveError(f"{what} ({type(error).__name__}: {error}); {advice}") from error


class GuardedArray(BackendArray):
    """A lazy variable of an archive that raises `ArchiveError`.

    Parameters
    ----------
    what : str
        Its name in messages.
    variable : Variable
        As xarray opened it.
    """

    def __init__(self, what: str, variable: xr.Variable) -> None:
        self.what, self.variable = what, variable
        self.shape, self.dtype = variable.shape, variable.dtype

    def __dask_tokenize__(self) -> Any:
        return type(self), self.what, self.variable

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            return self._read(key.tuple)
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        whole = all(isinstance(part, slice) and part == slice(None) for part in key)
        with unreadable(f"{self.what} cannot be read"):
            # xarray may cache what is read completely.
            return np.asarray((self.variable if whole else self.variable[key]).values)


def guarded(dataset: xr.Dataset, archive: str) -> xr.Dataset:
    """Make the variables of a lazy dataset raise `ArchiveError`."""
    found = dataset.copy()
    for name, variable in found.variables.items():
        if not isinstance(variable, xr.IndexVariable):
            inner = GuardedArray(
                f"archive {archive!r}: variable {name!r}", variable.copy(deep=False)
            )
            variable.data = indexing.LazilyIndexedArray(inner)
    return found
