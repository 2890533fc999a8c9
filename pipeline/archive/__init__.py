"""Readers of what is to be compressed: `open_archive` and what it returns."""

from pipeline.archive.archive import Archive
from pipeline.archive.open import name_of, open_archive

__all__ = ["Archive", "name_of", "open_archive"]
