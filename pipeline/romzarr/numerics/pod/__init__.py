"""Proper orthogonal decomposition: of a block, merged over a tree, and of a stream."""
