"""All exceptions that romzarr raises on purpose.

::

    PipelineError
    |-- ConfigError      (ValueError)   a setting that cannot be used
    |-- ArchiveError     (ValueError)   an archive that cannot be compressed as it is
    |   |-- ChunkError                  a chunk that is missing or cannot be decoded
    |   `-- GapsError                   values that are no numbers, where none are expected
    |-- CodecError       (ValueError)   a chunk that cannot be coded, or is damaged
    |-- LibraryError     (ValueError)   a feature or test function that is not allowed
    |-- StorageError     (OSError)      storage at a URL that does not answer or refuses access
    |-- AccuracyError                   a bound that cannot be kept or is violated
    |   `-- TooFineError (ValueError)   a quantisation step that is too small for the values
    |-- AnswerError      (ValueError)   a question that a store does not answer
    |-- ResourceError    (RuntimeError) threads that the system refuses to start
    |   `-- WorkerMemoryError           a task that no worker has the memory for
    `-- StoreError                      a coefficient store that cannot be written or read
        |-- StoreExistsError (FileExistsError)
        |-- StoreReplacedError          the opened store no longer exists
        `-- LargerStoreError            a store of more bytes than it may take
"""

from __future__ import annotations


class PipelineError(Exception):
    """Root of all errors that romzarr raises on purpose."""


class ConfigError(PipelineError, ValueError):
    """A setting has an unknown name or a value that is not allowed."""


class ArchiveError(PipelineError, ValueError):
    """The archive contains something that cannot be compressed within a bound."""


class ChunkError(ArchiveError):
    """A chunk of the archive is missing or cannot be decoded."""


class GapsError(ArchiveError):
    """Values are missing at some times, infinite, or look like undeclared fill values."""


class CodecError(PipelineError, ValueError):
    """A codec has a setting that is not allowed, or a chunk that cannot be coded or is damaged."""


class LibraryError(PipelineError, ValueError):
    """A candidate feature or a test function is malformed or not allowed."""


class StorageError(PipelineError, OSError):
    """Storage at a URL does not answer or refuses access."""


class AccuracyError(PipelineError):
    """An error bound cannot be kept, or was measured to be violated."""


class AnswerError(PipelineError, ValueError):
    """A question is not about a selection of a store, or cannot be answered with a bound."""


class ResourceError(PipelineError, RuntimeError):
    """The system lacks resources; this says nothing about the data."""


class WorkerMemoryError(ResourceError):
    """A task needs more memory than a worker has for it."""


def refuse_blame(error: BaseException) -> None:
    """Raise a `ResourceError` if `error` says that no thread could be started.

    Otherwise the data being read would be reported as damaged.
    """
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        raise ResourceError(
            "the system refuses to start a thread; raise its limits (ulimit -u, or pids of the "
            "container) or run fewer workers at once"
        ) from error


class TooFineError(AccuracyError, ValueError):
    """A quantisation step is so small that the quantised values exceed all integers."""


class StoreError(PipelineError):
    """A coefficient store cannot be written, is damaged, or has an unknown format."""


class StoreExistsError(StoreError, FileExistsError):
    """The destination exists, and `overwrite` is not set."""


class StoreReplacedError(StoreError):
    """The store was replaced since it was opened; open it again."""


class LargerStoreError(StoreError):
    """What was written takes more bytes than it may."""
