"""Readers of archives: Zarr, NetCDF, CSV and open xarray datasets."""

from romzarr.archive.archive import Archive
from romzarr.archive.open import Source, lazy_dataset, name_of, open_archive, places_of

__all__ = ["Archive", "Source", "lazy_dataset", "name_of", "open_archive", "places_of"]
