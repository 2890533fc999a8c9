"""The coefficient store on disk: written once, replaced atomically, decoded lazily (FORMAT.md)."""

# Whoever opens a store needs its codec, with or without the entry point of an installation.
from romzarr.store.codec import WaveletCodec as WaveletCodec
