"""What all figures share; matplotlib comes with the extra ``romzarr[plot]``."""

from __future__ import annotations

from matplotlib.figure import Figure

# Colours of pictures on white paper.
INK, GREY, RED = "#222222", "#888888", "#c0392b"
BLUE, ORANGE, GREEN = "#1f5a99", "#d1812c", "#3c8d5a"
# Pixels of a PNG per inch: a page of text is then some 1000 pixels wide.
DPI = 110


def canvas(width: float, height: float) -> Figure:
    """Make a figure of this size in inches, without pyplot: no window, no global state."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")
