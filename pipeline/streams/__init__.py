"""Compressing snapshots as they come: the parts of `pipeline.stream_compressor`."""
