"""Readers of what is to be compressed: `open_archive` and what it returns."""

from pipeline.archive.archive import Archive
from pipeline.archive.open import open_archive

__all__ = ["Archive", "open_archive"]
