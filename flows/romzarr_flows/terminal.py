"""Safe output to a terminal: control characters are escaped.

Names and attributes are untrusted. An escape sequence in them could clear the screen, and
bidirectional marks could make a line read differently.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

# Control and format characters, lone surrogates, separators of lines and paragraphs.
_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def escaped(text: str, lines: bool = False) -> str:
    """Escape every control character in `text`, as Python does in a string literal.

    Parameters
    ----------
    text : str
    lines : bool
        Keep line breaks.

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
        ascii(mark)[1:-1] if _is_control(mark) and not (lines and mark == "\n") else mark
        for mark in text
    )


def _is_control(mark: str) -> bool:
    return unicodedata.category(mark) in _CONTROLS


def show(text: str, stream: TextIO | None = None) -> None:
    """Print text with line breaks; escape what the terminal must not get or cannot show."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = escaped(text, lines=True)
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream)
