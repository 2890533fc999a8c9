"""Arguments of the command line, and the help that goes with them."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from romzarr.config import whole_place
from romzarr_flows import commands
from romzarr_flows.logs import add_log_format
from romzarr_flows.neural.arguments import add_neural
from romzarr_flows.nightly.arguments import add_nightly, add_status
from romzarr_flows.parsing import Parser

SOURCES = """\
SOURCE is a Zarr archive (version 2 or 3, a folder or a URL), a NetCDF file, or a CSV file whose
rows are variables and whose columns are time steps. STORE is the folder of the result; open it
in Python with xarray.open_dataset("STORE", engine="romzarr", chunks={})."""

TOP = """\
a first try:
  romzarr demo                            a flow computed here, compressed, verified and drawn
the usual way:
  romzarr compress run.zarr run.romzarr   error at most 1e-2 of every variable's fluctuation
  romzarr append run.romzarr run.zarr     add what has come since
  romzarr verify run.romzarr run.zarr     recompute the error from the source
  romzarr info run.romzarr                what is in the store
every night:
  romzarr nightly --config config.yaml    whatever is new in an archive of many datasets
  romzarr status --config config.yaml     how each of them stands
  romzarr COMMAND --help                  more on one command

exit status: 0 done, 1 a bound is broken, the job failed or `status` found something broken, 2 wrong
usage or settings, or a nightly run that could do nothing at all, 128 + n ended by signal n (SIGINT,
SIGTERM, SIGHUP)
"""

COMPRESS = """\
examples:
  romzarr compress run.zarr run.romzarr --tolerance 1e-3
  romzarr compress run.zarr run.romzarr --max-error u=0.01,v=0.01
  romzarr compress run.zarr run.romzarr --tolerance 0      lossless
  romzarr compress run.nc run.romzarr --variables u,v --weights "cos(latitude)"
  romzarr compress s3://bucket/run.zarr run.romzarr --cluster tcp://10.0.0.1:8786
  romzarr compress run.zarr run.romzarr --config config.yaml --json > report.json

Flags win over the file. Every setting and its default: config.yaml of the project.
"""

VERIFY = """\
Exit status 1 if the error of any variable is above the tolerance of the store, that of a single
value above its bound, a bit of a lossless store is another, or a file of the store is damaged;
said are variable, time, place, error and bound, or the file.

examples:
  romzarr verify run.romzarr run.zarr
  romzarr verify run.romzarr run.zarr --json --cluster local
"""

APPEND = """\
Exit status 1 if the archive does not begin as it did when the store was made: the first time that
differs is said. Parts of a Zarr archive that were written anew are compared with the store. Of a
NetCDF file a few blocks are: changes elsewhere go unseen there, and anywhere those that are smaller
than the error of the store. The settings are those of the store. Killed at any moment, it goes on
from its last commit when it is run again.

examples:
  romzarr compress run.zarr run.romzarr     the first night
  romzarr append run.romzarr run.zarr       every other night
"""

RECONSTRUCT = """\
What is at OUT is whole until the new archive takes its place in one step. Stores, and the archive
that STORE was made from, are never replaced. At a URL only Zarr is written, where nothing is.

examples:
  romzarr reconstruct run.romzarr again.zarr
  romzarr reconstruct run.romzarr again.nc                            a NetCDF file
  romzarr reconstruct run.romzarr part.zarr --start 100 --stop 200    snapshots 100 to 199
"""

REPORT = """\
The page opens offline in any browser. With --source the error is measured and shown over time and
as a map: all of the archive is read, or of a large one 2 GiB. A page named STORE.html beside its
store is linked from that of the catalogue.

examples:
  romzarr report run.romzarr -o run.romzarr.html
  romzarr report run.romzarr -o run.romzarr.html --source run.zarr
  romzarr report --catalogue /stores -o /stores/index.html
"""

Subparsers = argparse._SubParsersAction


def parser() -> Parser:
    """The parser of ``romzarr``; each command leaves the function to call in ``run``."""
    top = Parser(
        prog="romzarr",
        description="Compress simulation archives into a POD basis and a sparse model of its\n"
        "coefficients, within an error bound that is kept.",
        epilog=TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.set_defaults(log_format="text")
    top.add_argument("--version", action="version", version=f"romzarr {version('romzarr')}")
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    add_compress(subparsers)
    add_append(subparsers)
    add_info(subparsers)
    add_verify(subparsers)
    add_reconstruct(subparsers)
    add_equations(subparsers)
    add_report(subparsers)
    add_demo(subparsers)
    nightly = add_command(subparsers, "nightly", "keep an archive of many datasets compressed")
    add_nightly(nightly)
    add_json(nightly)
    add_where(nightly)
    status = add_command(subparsers, "status", "say how every dataset of an archive stands")
    add_status(status)
    add_json(status)
    add_neural(add_command(subparsers, "neural", "train networks as features, select among them"))
    return top


def add_command(
    subparsers: Subparsers[Parser], name: str, does: str, *, more: str = "", epilog: str = ""
) -> Parser:
    command = subparsers.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.\n\n{more}".strip(),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_log_format(command)
    return command


def add_where(command: Parser) -> None:
    """Options of every command that computes."""
    command.add_argument("--config", metavar="FILE", help="settings; without it the defaults hold")
    command.add_argument(
        "--cluster",
        metavar="WHERE",
        help="threads (in this process), local (processes on this machine), slurm, kubernetes or "
        "gateway (set up in the file), or the address of a Dask scheduler, tcp://host:port; "
        "another kind than the file's takes none of its settings",
    )


def add_json(command: Parser) -> None:
    command.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )


def add_overwrite(command: Parser, what: str) -> None:
    command.add_argument("--overwrite", action="store_true", help=f"replace {what} if it exists")


def rank(text: str) -> int | str:
    return text if text == "auto" else int(text)


def bounds(text: str) -> dict[str, float | str]:
    """Names and bounds; what is no number is left to the settings, which say what is allowed."""
    found: dict[str, float | str] = {}
    for part in text.split(","):
        name, equals, bound = part.rpartition("=")
        name = name.strip()
        if not equals or not name or name in found:
            raise argparse.ArgumentTypeError(
                f"found {part!r}, allowed are variables, each once, and bounds: u=0.01,v=0.02"
            )
        try:
            found[name] = float(bound)
        except ValueError:
            found[name] = bound
    return found


def names(text: str) -> list[str] | str:
    return text if text == "all" else [name.strip() for name in text.split(",")]


def add_compress(subparsers: Subparsers[Parser]) -> None:
    command = add_command(
        subparsers, "compress", "compress an archive", more=SOURCES, epilog=COMPRESS
    )
    command.set_defaults(run=commands.compress)
    command.add_argument("source", metavar="SOURCE")
    command.add_argument("store", metavar="STORE")
    command.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest L2 error of every variable relative to its fluctuation about its mean in "
        "time, above 0 and below 1 (default 1e-2: 99.99 %% of the variance is kept); 0 is "
        "lossless: every bit comes back",
    )
    command.add_argument(
        "--max-error",
        type=bounds,
        metavar="U=X,V=Y",
        help="besides, largest error of every single value of these variables, in their units",
    )
    command.add_argument(
        "--variables", type=names, metavar="U,V", help="names, joined by commas (default all)"
    )
    command.add_argument(
        "--max-rank", type=rank, metavar="N", help="largest number of POD modes (default auto)"
    )
    command.add_argument(
        "--weights", metavar="W", help="none, cos(latitude), or a variable that holds weights"
    )
    command.add_argument("--time", metavar="DIM", help="name of the time dimension (default auto)")
    add_overwrite(command, "STORE")
    add_json(command)
    add_where(command)


def add_append(subparsers: Subparsers[Parser]) -> None:
    command = add_command(
        subparsers,
        "append",
        "append what is new in an archive to its store",
        more="Only what is new or written anew is read; twice changes nothing.",
        epilog=APPEND,
    )
    command.set_defaults(run=commands.append)
    command.add_argument("store", metavar="STORE")
    command.add_argument("source", metavar="SOURCE")
    add_json(command)
    add_where(command)


def add_info(subparsers: Subparsers[Parser]) -> None:
    command = add_command(subparsers, "info", "say what is in a store")
    command.set_defaults(run=commands.info)
    command.add_argument("store", metavar="STORE")
    add_json(command)


def add_verify(subparsers: Subparsers[Parser]) -> None:
    command = add_command(
        subparsers, "verify", "recompute the error of a store from its source", epilog=VERIFY
    )
    command.set_defaults(run=commands.verify)
    command.add_argument("store", metavar="STORE")
    command.add_argument("source", metavar="SOURCE")
    command.add_argument(
        "--sample",
        action="store_true",
        help="compare a few blocks of each variable, and all only if these look wrong",
    )
    add_json(command)
    add_where(command)


def add_reconstruct(subparsers: Subparsers[Parser]) -> None:
    command = add_command(
        subparsers,
        "reconstruct",
        "decode a store into a Zarr archive or a NetCDF file",
        epilog=RECONSTRUCT,
    )
    command.set_defaults(run=commands.reconstruct)
    command.add_argument("store", metavar="STORE")
    command.add_argument("out", metavar="OUT", help="path ending in .zarr or .nc, or a URL")
    command.add_argument(
        "--start",
        type=int,
        metavar="I",
        help="first snapshot (default 0); negative numbers count from the end",
    )
    command.add_argument("--stop", type=int, metavar="J", help="one past the last snapshot")
    add_overwrite(command, "an archive at OUT")
    add_where(command)


def add_equations(subparsers: Subparsers[Parser]) -> None:
    command = add_command(
        subparsers, "equations", "print the equations found for the POD coefficients, by regime"
    )
    command.set_defaults(run=commands.equations)
    command.add_argument("store", metavar="STORE")
    command.add_argument("--latex", action="store_true", help="as LaTeX")


def add_report(subparsers: Subparsers[Parser]) -> None:
    command = add_command(
        subparsers, "report", "draw a store, or list all stores, in one HTML page", epilog=REPORT
    )
    command.set_defaults(run=commands.report)
    command.add_argument("store", metavar="STORE", nargs="?")
    command.add_argument("-o", "--output", metavar="PAGE.html", required=True, help="page to write")
    command.add_argument("--source", metavar="SOURCE", help="measure the error against the archive")
    command.add_argument(
        "--catalogue",
        metavar="STORES",
        type=whole_place,
        help="list the datasets of `romzarr nightly` instead",
    )
    add_where(command)


def add_demo(subparsers: Subparsers[Parser]) -> None:
    command = add_command(
        subparsers,
        "demo",
        "compute a cylinder wake, compress it, verify it and draw a picture",
        more="The flow takes under a minute; it is kept in the directory for the next time.",
    )
    command.set_defaults(run=commands.demo)
    command.add_argument(
        "--directory",
        default="romzarr-demo",
        metavar="DIR",
        help="folder of the results (default romzarr-demo)",
    )
    add_where(command)
