"""Readers of what is to be compressed: `open_archive` and what it returns, `lazy_dataset`."""

from pipeline.archive.archive import Archive
from pipeline.archive.open import lazy_dataset, name_of, open_archive

__all__ = ["Archive", "lazy_dataset", "name_of", "open_archive"]
