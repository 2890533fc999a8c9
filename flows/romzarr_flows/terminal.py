"""Text on its way to a terminal: what would steer the terminal is shown, not obeyed.

Names and attributes are a stranger's words. An escape sequence in them could clear the screen or
set a title, and marks of direction let a line read as another.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

# Controls, marks of format and direction, lone surrogates, separators of lines and paragraphs.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def escaped(text: str, lines: bool = False) -> str:
    """`text` with every character that steers a terminal as Python writes it in a string.

    Parameters
    ----------
    text : str
    lines : bool
        Leave the ends of lines: `text` is one that this program broke into lines.

    Examples
    --------
    >>> print(escaped("u\\x1b[2J\\u202e"))
    u\\x1b[2J\\u202e
    >>> print(escaped("cold \\N{SNOWFLAKE}"))
    cold \N{SNOWFLAKE}
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        ascii(mark)[1:-1] if _steers(mark) and not (lines and mark == "\n") else mark
        for mark in text
    )


def _steers(mark: str) -> bool:
    return unicodedata.category(mark) in _STEERING


def show(text: str, stream: TextIO | None = None) -> None:
    """Print text of several lines, as a terminal may have it; what it cannot show is escaped."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = escaped(text, lines=True)
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream)
