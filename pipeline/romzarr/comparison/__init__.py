"""An archive beside its store: what both have at the same place, and where they differ."""
