"""Every exception romzarr raises on purpose.

::

    PipelineError
    |-- ConfigError      (ValueError)   a setting that cannot be used
    |-- ArchiveError     (ValueError)   an archive that cannot be compressed as it is
    |   `-- ChunkError                  a chunk that is missing or cannot be decoded
    |-- LibraryError     (ValueError)   a feature or test function that is not allowed
    |-- StorageError     (OSError)      storage at a URL that does not answer, or refuses
    |-- AccuracyError                   a bound that cannot be met, or was found broken
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


class StoreError(PipelineError):
    """A coefficient store cannot be written, or is damaged or not understood."""


class StoreExistsError(StoreError, FileExistsError):
    """The destination exists and overwriting was not asked for."""


class StoreReplacedError(StoreError):
    """The store was replaced since it was opened; opened again, it can be read."""
