"""Numerical steps of the method: numpy and scipy only, arrays in, arrays out."""
