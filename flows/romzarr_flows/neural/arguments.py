"""Arguments of ``romzarr neural``."""

from __future__ import annotations

from romzarr.neural.operations import OWN_REACH
from romzarr.neural.systems import SystemName
from romzarr_flows.neural import commands
from romzarr_flows.parsing import Parser, Subparsers, add_command, add_directory

OPERATORS = ("identity", "sin", "cos", "add", "mul")
RESULTS = "romzarr-neural"
RUNS = ("1", "2", "3", "4", "5", "router", "best", "cures")

EPILOG = """\
examples:
  romzarr neural train                    retrain the operators that ship with romzarr
  romzarr neural train --operator "tanh(x)" --operator "cube=x**3"
                                          train operators of your own, for library.weights
  romzarr neural run 1                    STLSQ on the damped oscillator, 20 seeds
  romzarr neural run best --sigma 0.05    the default method, with 5 % noise on the states
  romzarr neural run best --system duffing --k 2 --c 0 --length 3000 --noise 0.01
                                          the same on another system, with relative noise
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
        default=None,
        metavar="NAME",
        help=f"operators to train (default {' '.join(OPERATORS)}; with --operator none, and those "
        "that ship with romzarr are copied)",
    )
    command.add_argument(
        "--operator",
        action="append",
        default=[],
        metavar="EXPRESSION",
        help="train an operator of your own: an expression in x (and y), or name=expression; "
        "may be repeated",
    )
    command.add_argument(
        "--reach",
        type=float,
        default=OWN_REACH,
        metavar="X",
        help=f"train operators of your own on arguments from -X to X (default {OWN_REACH:g})",
    )
    command.add_argument(
        "--unfinished", action="store_true", help="skip the final Gauss-Newton steps"
    )
    add_directory(command, RESULTS)


def _run(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers, "run", "recover the equations of a system from many seeds", commands.run
    )
    command.add_argument("which", choices=RUNS, metavar="RUN", help=", ".join(RUNS))
    names = [name.value for name in SystemName]
    command.add_argument(
        "--system",
        choices=names,
        default=SystemName.OSCILLATOR.value,
        metavar="NAME",
        help=f"{', '.join(names)} (default {SystemName.OSCILLATOR.value})",
    )
    for name, what in (
        ("--k", "stiffness"),
        ("--c", "damping"),
        ("--x0", "first position"),
        ("--dt", "time between samples"),
    ):
        text = f"{what} (default: the system's own)"
        command.add_argument(name, type=float, metavar="X", help=text)
    command.add_argument(
        "--length", type=int, metavar="N", help="samples of a record (default 600)"
    )
    noise = command.add_mutually_exclusive_group()
    noise.add_argument(
        "--sigma",
        type=float,
        default=1e-3,
        metavar="X",
        help="standard deviation of the noise on the states (default 1e-3)",
    )
    noise.add_argument(
        "--noise", type=float, metavar="X", help="noise relative to the rms of each state"
    )
    _seeds(command, 20)
    command.add_argument(
        "--seed", type=int, default=0, metavar="K", help="the first seed (default 0)"
    )
    command.add_argument(
        "--weights", metavar="FILE", help="file of operators (default: those shipped with romzarr)"
    )
    add_directory(command, RESULTS)


def _seeds(command: Parser, default: int) -> None:
    command.add_argument(
        "--seeds",
        type=int,
        default=default,
        metavar="N",
        help=f"number of seeds (default {default})",
    )
