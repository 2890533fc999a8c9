"""The parser of all commands, and the options that several commands share.

argparse stays: click would take as many lines for the same help, and wrap it in its own way.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn, TypeAlias

from romzarr_flows.logs import add_log_format

_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and suggests the nearest word for a misspelt one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        if found := _CHOICE.search(message):
            word, choices = found[1], re.findall(r"[\w-]+", found[2])
            if near := get_close_matches(word, choices, n=1):
                message = f"{message}; did you mean {near[0]!r}?"
        super().error(message)


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(
    subparsers: Subparsers,
    name: str,
    does: str,
    run: Callable[[argparse.Namespace], int] | None = None,
    *positional: str,
    more: str = "",
    epilog: str = "",
) -> Parser:
    """Add a command that calls `run`; `does` is its line in the list of commands."""
    command = subparsers.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.\n\n{more}".strip(),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_log_format(command)
    if run is not None:
        command.set_defaults(run=run)
    for each in positional:
        command.add_argument(each, metavar=each.upper())
    return command


def add_json(command: Parser) -> None:
    command.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )


def add_directory(command: Parser, default: str) -> None:
    command.add_argument(
        "--directory",
        default=default,
        metavar="DIR",
        help=f"folder for the results (default {default})",
    )


def add_where(command: Parser) -> None:
    """Add the options of every command that computes."""
    command.add_argument(
        "--config", metavar="FILE", help="settings file (default: all settings at their defaults)"
    )
    command.add_argument(
        "--cluster",
        metavar="WHERE",
        help="threads (in this process), local (processes on this machine), slurm, kubernetes or "
        "gateway (configured in FILE), or the address of a Dask scheduler, tcp://host:port; "
        "a kind other than that in FILE ignores the cluster settings of FILE",
    )
