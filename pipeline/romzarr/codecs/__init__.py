"""The coding of values as a codec for other writers: of Zarr v3 (`zarr`) and numcodecs (`v2`)."""
