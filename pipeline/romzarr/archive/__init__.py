"""Readers of what is to be compressed: `open_archive` and what it returns, `lazy_dataset`."""

from romzarr.archive.archive import Archive
from romzarr.archive.open import Source, lazy_dataset, name_of, open_archive

__all__ = ["Archive", "Source", "lazy_dataset", "name_of", "open_archive"]
