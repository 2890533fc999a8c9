"""Stores of every kind, as they were written once: what is stored today has to be read for ever.

``stores/*.zip`` hold a store each, and what it decoded to; ``payloads.json`` what the coders made
of fixed numbers. `tests.golden.make` writes them anew, which is right only where a change of the
format is meant, and as long as the format is not frozen.
"""
