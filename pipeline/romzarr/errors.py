"""Every exception romzarr raises on purpose.

::

    PipelineError
    |-- ConfigError      (ValueError)   a setting that cannot be used
    |-- ArchiveError     (ValueError)   an archive that cannot be compressed as it is
    |   `-- ChunkError                  a chunk that is missing or cannot be decoded
    |-- LibraryError     (ValueError)   a feature or test function that is not allowed
    |-- StorageError     (OSError)      storage at a URL that does not answer, or refuses
    |-- AccuracyError                   a bound that cannot be met, or was found broken
    |   `-- TooFineError (ValueError)   a step that is too small for what it is to quantise
    |-- ResourceError   (RuntimeError) threads that the system refuses to start
    `-- StoreError                      a coefficient store that cannot be written or read
        |-- StoreExistsError (FileExistsError)
        `-- StoreReplacedError            what was opened is there no more
"""

from __future__ import annotations


class PipelineError(Exception):
    """Root of all errors that romzarr raises on purpose."""


class ConfigError(PipelineError, ValueError):
    """A setting has an unknown name or a value outside what is allowed."""


class ArchiveError(PipelineError, ValueError):
    """The archive holds something that cannot be compressed within a bound."""


class ChunkError(ArchiveError):
    """A chunk of the archive is missing or cannot be decoded."""


class LibraryError(PipelineError, ValueError):
    """A candidate feature or a test function is malformed or not allowed."""


class StorageError(PipelineError, OSError):
    """Storage at a URL does not answer, or refuses."""


class AccuracyError(PipelineError):
    """A promised error bound cannot be met, or was measured to be broken."""


class ResourceError(PipelineError, RuntimeError):
    """The system refuses what the work needs, so nothing can be said of the data."""


def refuse_blame(error: BaseException) -> None:
    """Raise a `ResourceError` if `error` says that no thread could be started.

    What was being read then is not to be called damaged.
    """
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        raise ResourceError(
            "the system refuses to start a thread; raise its limits (ulimit -u, or pids of the "
            "container) or run fewer workers at once"
        ) from error


class TooFineError(AccuracyError, ValueError):
    """A quantisation step is so small beside the values that no integer counts it."""


class StoreError(PipelineError):
    """A coefficient store cannot be written, or is damaged or not understood."""


class StoreExistsError(StoreError, FileExistsError):
    """The destination exists and overwriting was not asked for."""


class StoreReplacedError(StoreError):
    """The store was replaced since it was opened; opened again, it can be read."""
