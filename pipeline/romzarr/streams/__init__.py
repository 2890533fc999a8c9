"""Compressing snapshots as they come: the parts of `romzarr.streams.compressor`."""
