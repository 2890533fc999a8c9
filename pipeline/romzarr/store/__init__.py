"""The coefficient store: written once, replaced atomically, decoded lazily (FORMAT.md)."""

# Registers the codec, also where romzarr is not installed with its entry points.
from romzarr.store.codec import WaveletCodec as WaveletCodec
