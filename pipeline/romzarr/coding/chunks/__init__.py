"""The coding of one chunk for itself, within bounds of its own: what `romzarr.Codec` writes."""
