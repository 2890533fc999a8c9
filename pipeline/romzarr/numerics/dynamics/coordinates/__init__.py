"""Coordinates in which a polynomial system has few terms.

States z of a system that are observed through patterns in space come back from POD as
``a = A (z - c)``, and equations of z with two terms each have all terms in a. `affine` says how
equations move with coordinates, `dense` fits them in those of the record, `evidence` says how
likely others are, `descent` looks for coordinates from many starts, `elimination` decides which
terms stay while coordinates move, and `search` does it all.
"""
