"""Arguments of ``romzarr neural``."""

from __future__ import annotations

import argparse

from romzarr_flows.logs import add_log_format
from romzarr_flows.neural import commands
from romzarr_flows.parsing import Parser

OPERATORS = ("identity", "sin", "cos", "add", "mul")
RUNS = ("1", "2", "3", "4", "5", "router", "best", "cures")

EPILOG = """\
examples:
  romzarr neural train                    the operators that ship with romzarr, trained again
  romzarr neural run 1                    STLSQ on the damped oscillator, 20 seeds
  romzarr neural run best --sigma 0.05    the default, with 5 % noise on the states
  romzarr neural run cures                what helps the routers of runs 4 and 5, and how much
  romzarr neural beyond                   pendulum, Van der Pol, Lotka-Volterra, Lorenz
  romzarr neural distill                  which formula each network is

runs: 1 STLSQ, 2 state-dependent router, 3 router with entropy penalty, 4 two slots,
5 conditional slot entropy, router the cured router, best the default, cures all of them
"""

Subparsers = argparse._SubParsersAction


def add_neural(command: Parser) -> None:
    """Add the commands below ``romzarr neural``."""
    command.epilog = EPILOG
    subparsers = command.add_subparsers(metavar="COMMAND", required=True)
    _train(subparsers)
    _run(subparsers)
    beyond = _command(subparsers, "beyond", "identify other systems with the default")
    beyond.set_defaults(run=commands.beyond)
    beyond.add_argument("--noise", type=float, default=0.01, metavar="X", help="of the states' rms")
    _seeds(beyond, 5)
    _directory(beyond)
    distill = _command(subparsers, "distill", "say which formula each network is")
    distill.set_defaults(run=commands.distill)
    distill.add_argument("--weights", metavar="FILE", help="a file of weights (default: shipped)")
    diagnose = _command(subparsers, "diagnose", "say which terms of a store's library are alike")
    diagnose.set_defaults(run=commands.diagnose)
    diagnose.add_argument("store", metavar="STORE")


def _command(subparsers: Subparsers[Parser], name: str, does: str) -> Parser:
    command = subparsers.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
    add_log_format(command)
    return command


def _train(subparsers: Subparsers[Parser]) -> None:
    command = _command(subparsers, "train", "train operators past overfitting")
    command.set_defaults(run=commands.train)
    command.add_argument("--epochs", type=int, default=20_000, metavar="N", help="default 20000")
    _seeds(command, 4)
    command.add_argument("--seed", type=int, default=0, metavar="K", help="of everything random")
    command.add_argument(
        "--operators", nargs="+", choices=OPERATORS, default=OPERATORS, metavar="NAME"
    )
    command.add_argument(
        "--unfinished", action="store_true", help="leave out the Gauss-Newton steps at the end"
    )
    _directory(command)


def _run(subparsers: Subparsers[Parser]) -> None:
    command = _command(subparsers, "run", "recover a damped oscillator, over many seeds")
    command.set_defaults(run=commands.run)
    command.add_argument("which", choices=RUNS, metavar="RUN", help=", ".join(RUNS))
    command.add_argument(
        "--sigma", type=float, default=1e-3, metavar="X", help="noise on the states (default 1e-3)"
    )
    _seeds(command, 20)
    _directory(command)


def _seeds(command: Parser, default: int) -> None:
    command.add_argument(
        "--seeds", type=int, default=default, metavar="N", help=f"default {default}"
    )


def _directory(command: Parser) -> None:
    command.add_argument(
        "--directory",
        default="romzarr-neural",
        metavar="DIR",
        help="folder of the results (default romzarr-neural)",
    )
