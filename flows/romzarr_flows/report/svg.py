"""Inline SVG figures: small, without fonts or links, legible on light and dark backgrounds."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axis import XAxis, YAxis
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from romzarr.views.sections import Axis

# A colour that becomes the page's text colour, dark or light.
INK = "#010203"
CURVES = ("#3d7fc6", "#df8a3a", "#46a06b", "#b266bd", "#8a8f98", "#c9a227")
RED, GREY = "#d64a4a", "#8a8f98"
# Width in inches of a figure that fills the page.
WIDTH = 9.9

STYLE: dict[Any, Any] = {
    # Text stays text. These fonts are as wide as the one used for the layout.
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    # Names may contain dollar signs, which must not start formulas.
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "axes.formatter.limits": (-3, 4),
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
}


@contextmanager
def styled() -> Iterator[None]:
    """Style figures for `inline` while the context lasts."""
    with matplotlib.rc_context(STYLE):
        yield


def inline(figure: Figure, name: str, says: str) -> str:
    """Make the SVG element of a figure, with a unique `name`; `says` describes its content."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        # Tight: figures drawn to scale leave empty margins.
        figure.savefig(
            buffer, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.04
        )
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Nothing refers to images, and equal images have equal names.
    text = re.sub(r'(<image [^>]*?)\bid="[^"]*"', r"\1", text)
    # Identifiers are the same in every figure, but have to be unique on a page.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text.replace(INK, "currentColor"))
    text = re.sub(r' d="[^"]*"', _rounded, text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(says)}"', 1)


def _rounded(path: re.Match[str]) -> str:
    """Round a path to hundredths of a point."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])


def tick(axis: XAxis | YAxis, along: Axis, most: int) -> None:
    """Set at most `most` ticks for numbers or dates."""
    if along.values.dtype.kind == "M":
        dates = AutoDateLocator(minticks=2, maxticks=most)
        axis.set_major_locator(dates)
        axis.set_major_formatter(ConciseDateFormatter(dates))
    else:
        axis.set_major_locator(MaxNLocator(most))


def subscript(number: int, letter: str = "a") -> str:
    """Return the name of a coefficient, or of a coordinate.

    >>> subscript(12), subscript(3, "z")
    ('a₁₂', 'z₃')
    """
    return letter + str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def short(text: str, most: int = 28) -> str:
    """Shorten text in the middle, to fit above a panel.

    >>> short("a_very_long_name_of_some_variable (kg m-2 s-1)", 21)
    'a_very_lon…kg m-2 s-1)'
    """
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half - 1 :]}"


def _alike(names: Sequence[str]) -> int:
    """Return the length of the common prefix of all names."""
    first, last = min(names), max(names)
    return next((k for k, c in enumerate(first) if k >= len(last) or c != last[k]), len(first))


def distinct(names: Sequence[str], most: int = 22, around: int = 4) -> list[str]:
    """Shorten names, first by their common prefix and suffix.

    >>> distinct(["concentration_of_ozone_at_surface", "concentration_of_water_at_surface"])
    ['…_of_ozone_at_…', '…_of_water_at_…']
    """
    if len(names) > 1 and max(map(len, names)) > most:
        start = max(0, _alike(names) - around)
        end = max(0, _alike([name[start + around :][::-1] for name in names]) - around)
        names = [f"…{name[start : len(name) - end]}…" for name in names]
    return [short(name, most) for name in names]
