"""Arguments of the public functions: of a wrong one its name, what was found, what is allowed."""

from __future__ import annotations

import operator
import os
from typing import Any

from romzarr.errors import ConfigError

LONGEST = 200


def shown(value: Any) -> str:
    """What a value is, for a message: whatever it is, and however long.

    >>> shown("u"), shown(range)[:24]
    ("'u'", "<class 'range'>")
    """
    try:
        found = repr(value)
    # Objects of strangers, and integers of more digits than Python writes.
    except Exception:
        return f"a {type(value).__name__}"
    found = " ".join(found.split())
    return found if len(found) <= LONGEST else f"{found[:LONGEST]}..."


def wrong_type(name: str, value: Any, allowed: str) -> TypeError:
    """The error for an argument of a wrong type."""
    return TypeError(f"{name}: found {shown(value)} ({type(value).__name__}), allowed is {allowed}")


def as_place(value: str | os.PathLike[str], name: str) -> str:
    """The text of a path or URL.

    Raises
    ------
    TypeError
        If it is neither.
    ConfigError
        If it can be none.
    """
    place: Any = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(place, str):
        raise wrong_type(name, value, "a path or a URL, as text or pathlib.Path")
    try:
        os.fsencode(place)
    except ValueError as error:
        raise ConfigError(f"{name}: found {shown(place)}, which is no path: {error}") from error
    if "\0" in place:
        raise ConfigError(f"{name}: found {shown(place)}, which is no path: it holds a NUL")
    return place


def as_flag(value: bool, name: str) -> bool:
    # One of NumPy's counts too, which settings need not import.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise wrong_type(name, value, "True or False")
    return bool(value)


def as_whole(value: int, name: str, least: int | None = None) -> int:
    """A whole number, of `least` or more if that is given."""
    try:
        number = operator.index(value)
    except TypeError:
        raise wrong_type(name, value, "a whole number") from None
    if least is not None and number < least:
        raise ConfigError(f"{name}: found {shown(number)}, allowed are numbers of {least} or more")
    return number
