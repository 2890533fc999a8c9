"""Checks of function arguments; errors name the argument, what was found and what is allowed."""

from __future__ import annotations

import operator
import os
from numbers import Real
from typing import Any, TypeGuard

from romzarr.errors import ConfigError

# Characters of a value in a message: a line or two.
LONGEST = 200


def shown(value: Any) -> str:
    """Format any value for a message, shortened if necessary.

    >>> shown("u"), shown(range)[:24]
    ("'u'", "<class 'range'>")
    """
    try:
        found = repr(value)
    # Foreign objects may raise anything, and Python refuses to print huge integers.
    except Exception:
        return f"a {type(value).__name__}"
    found = " ".join(found.split())
    return found if len(found) <= LONGEST else f"{found[:LONGEST]}..."


def wrong_type(name: str, value: Any, allowed: str) -> TypeError:
    """Make the error for an argument of a wrong type."""
    return TypeError(f"{name}: found {shown(value)} ({type(value).__name__}), allowed is {allowed}")


def as_place(value: str | os.PathLike[str], name: str) -> str:
    """Return a path or URL as text.

    Raises
    ------
    TypeError
        If it has another type.
    ConfigError
        If it cannot be a path, such as text with a NUL.
    """
    place: Any = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(place, str):
        raise wrong_type(name, value, "a path or a URL, as text or pathlib.Path")
    try:
        os.fsencode(place)
    except ValueError as error:
        raise ConfigError(f"{name}: found {shown(place)}, which is not a path: {error}") from error
    if "\0" in place:
        raise ConfigError(f"{name}: found {shown(place)}, which is not a path: it has a NUL")
    return place


def as_flag(value: bool, name: str) -> bool:
    # NumPy's booleans count too, without an import of NumPy.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise wrong_type(name, value, "True or False")
    return bool(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a real number, of Python or NumPy.

    >>> is_number(1.5), is_number(True), is_number("1")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def as_whole(value: int, name: str, least: int | None = None) -> int:
    """Check that a value is an integer, of at least `least` if that is given."""
    try:
        number = operator.index(value)
    except TypeError:
        raise wrong_type(name, value, "an integer") from None
    # Old versions of NumPy take its truth values for indices.
    if getattr(getattr(value, "dtype", None), "kind", "") == "b":
        raise wrong_type(name, value, "an integer")
    if least is not None and number < least:
        raise ConfigError(f"{name}: found {shown(number)}, allowed are numbers of {least} or more")
    return number
