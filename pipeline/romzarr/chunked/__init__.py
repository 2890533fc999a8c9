"""Dask lifts of the numerical steps over blocks of an archive."""
