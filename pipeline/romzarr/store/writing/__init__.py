"""Writes a generation of a store."""
