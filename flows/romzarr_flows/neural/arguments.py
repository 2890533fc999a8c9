"""Arguments of ``romzarr neural``."""

from __future__ import annotations

from romzarr_flows.neural import commands
from romzarr_flows.parsing import Parser, Subparsers, add_command, add_directory

OPERATORS = ("identity", "sin", "cos", "add", "mul")
RESULTS = "romzarr-neural"
RUNS = ("1", "2", "3", "4", "5", "router", "best", "cures")

EPILOG = """\
examples:
  romzarr neural train                    retrain the operators that ship with romzarr
  romzarr neural run 1                    STLSQ on the damped oscillator, 20 seeds
  romzarr neural run best --sigma 0.05    the default method, with 5 % noise on the states
  romzarr neural run cures                compare the cures for the routers of runs 4 and 5
  romzarr neural beyond                   pendulum, Van der Pol, Lotka-Volterra, Lorenz
  romzarr neural distill                  name the formula that each network represents

runs: 1 STLSQ, 2 state-dependent router, 3 router with entropy penalty, 4 two slots,
5 conditional slot entropy, router the cured router, best the default method, cures all cures
"""


def add_neural(command: Parser) -> None:
    """Add the subcommands of ``romzarr neural``."""
    command.epilog = EPILOG
    subparsers = command.add_subparsers(metavar="COMMAND", required=True)
    _train(subparsers)
    _run(subparsers)
    beyond = add_command(
        subparsers, "beyond", "identify other systems with the default method", commands.beyond
    )
    beyond.add_argument(
        "--noise",
        type=float,
        default=0.01,
        metavar="X",
        help="noise relative to the rms of the states (default 0.01)",
    )
    _seeds(beyond, 5)
    add_directory(beyond, RESULTS)
    distill = add_command(
        subparsers, "distill", "name the formula that each network represents", commands.distill
    )
    distill.add_argument(
        "--weights", metavar="FILE", help="file of weights (default: those shipped with romzarr)"
    )
    add_command(
        subparsers,
        "diagnose",
        "find collinear terms in the library of a store",
        commands.diagnose,
        "store",
    )


def _train(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers, "train", "train operators past overfitting (grokking)", commands.train
    )
    command.add_argument(
        "--epochs", type=int, default=20_000, metavar="N", help="training epochs (default 20000)"
    )
    _seeds(command, 4)
    command.add_argument(
        "--seed", type=int, default=0, metavar="K", help="seed of the random generator (default 0)"
    )
    command.add_argument(
        "--operators",
        nargs="+",
        choices=OPERATORS,
        default=OPERATORS,
        metavar="NAME",
        help=f"operators to train (default {' '.join(OPERATORS)})",
    )
    command.add_argument(
        "--unfinished", action="store_true", help="skip the final Gauss-Newton steps"
    )
    add_directory(command, RESULTS)


def _run(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers, "run", "recover a damped oscillator from many seeds", commands.run
    )
    command.add_argument("which", choices=RUNS, metavar="RUN", help=", ".join(RUNS))
    command.add_argument(
        "--sigma",
        type=float,
        default=1e-3,
        metavar="X",
        help="standard deviation of the noise on the states (default 1e-3)",
    )
    _seeds(command, 20)
    add_directory(command, RESULTS)


def _seeds(command: Parser, default: int) -> None:
    command.add_argument(
        "--seeds",
        type=int,
        default=default,
        metavar="N",
        help=f"number of seeds (default {default})",
    )
