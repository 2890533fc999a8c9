"""The parser that all commands are read with.

argparse stays: click would take as many lines for the same help, and wrap it in its own way.
"""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import Any, NoReturn

_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and names the nearest word to a misspelt one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        if found := _CHOICE.search(message):
            word, choices = found[1], re.findall(r"[\w-]+", found[2])
            if near := get_close_matches(word, choices, n=1):
                message = f"{message}; did you mean {near[0]!r}?"
        super().error(message)
