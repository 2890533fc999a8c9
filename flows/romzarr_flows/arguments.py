"""The arguments of every command, and their help texts."""

from __future__ import annotations

import argparse
import re
from importlib.metadata import version

from romzarr.config import AUTO, NONE, Reference, whole_place
from romzarr.contracts import FurtherMeasure, Layout, Series
from romzarr_flows import commands
from romzarr_flows.neural.arguments import add_neural
from romzarr_flows.nightly.arguments import add_nightly, add_status
from romzarr_flows.parsing import (
    Parser,
    Subparsers,
    add_command,
    add_directory,
    add_json,
    add_where,
)

# The word for all variables, or all measures.
ALL = "all"

SOURCES = """\
SOURCE is a Zarr group (version 2 or 3, a folder or a URL), a NetCDF or GRIB file, or a CSV file of
series in columns or rows, which are one variable x(row, time); with --engine whatever xarray opens.
Of a run in many files it is a glob in quotes such as 'out/*.nc', or their folder. STORE is the
folder to write. Open it in Python with
xarray.open_dataset("STORE", engine="romzarr", chunks={})."""

TOP = """\
first try:
  romzarr demo                            simulate a flow, compress it, verify it and plot it
typical use:
  romzarr estimate run.zarr               show in seconds what compression would give
  romzarr compress run.zarr run.romzarr   relative L2 error of every variable at most 1e-2
  romzarr append run.romzarr run.zarr     add the snapshots that are new in the archive
  romzarr compact run.romzarr             put the parts that appends have made together
  romzarr verify run.romzarr run.zarr     measure the error against the source
  romzarr info run.romzarr                show what the store contains
what moves it:
  romzarr equations run.romzarr           equations of its field, in few terms
  romzarr forecast run.romzarr --until T  fields beyond the record, and how long to trust them
a few time series:
  romzarr identify data.csv               find their differential equations
every night:
  romzarr nightly --config config.yaml    compress what is new in an archive of many datasets
  romzarr status --config config.yaml     show the state of every dataset
  romzarr COMMAND --help                  help on one command

exit status: 0 success; 1 an error bound is violated, the job failed, or `status` found a problem;
2 invalid usage or settings, or a nightly run that could not start; 128 + n terminated by signal n
(SIGINT, SIGTERM, SIGHUP)
"""

ESTIMATE = """\
Nothing is written. A small archive is read once, a large one at a few places. For each tolerance
the ratio is shown, and for each variable how it would be coded and why, its size, and what an
additional bound on every single value would cost (--max-error of `romzarr compress`).

examples:
  romzarr estimate run.zarr
  romzarr estimate run.zarr --tolerances 1e-2,1e-3 --variables u,v --json
"""

COMPRESS = """\
Points of a mesh, which have two or three coordinates over one dim, are stored along a Hilbert
curve if a sample takes fewer bytes so; the result says it. Readers see the order of the archive.

examples:
  romzarr compress run.zarr run.romzarr --tolerance 1e-3
  romzarr compress run.zarr run.romzarr --max-error u=0.01,v=0.01
  romzarr compress run.zarr run.romzarr --tolerance 0      (lossless)
  romzarr compress run.nc run.romzarr --variables u,v --weights "cos(latitude)"
  romzarr compress run.grib run.romzarr --engine cfgrib
  romzarr compress s3://bucket/run.zarr run.romzarr --cluster tcp://10.0.0.1:8786
  romzarr compress run.zarr run.romzarr --config config.yaml --json > report.json

Flags override FILE. The project's config.yaml lists every setting with its default.
"""

VERIFY = """\
The exit status is 1 if the error of a variable exceeds the tolerance of the store, a single value
exceeds its bound, any bit of a lossless store differs, or a file of the store is damaged. The
message names the variable, time, place, error and bound, or the damaged file.

One bound over all levels may hide single ones that are ruined. So the error of each index of a
vertical dim (depth, height, pressure, model levels) or a labelled one (stations, series), of dims
whose indices have bounds of their own, and of those of --per, is shown relative to the fluctuation
on that index alone, with a warning where one is ten times that of the whole variable. Warnings do
not change the exit status.

Measures of --measures say more than the bound does; they judge nothing:
  bias         mean of decoded less original values
  correlation  of all values, and of anomalies about the temporal mean of each place
  extremes     smallest and largest values and quantiles of both; reads the archive again
  gradient     relative error of differences between neighbours along each dim of maps
  spectrum     power of original, decoded and error by wavenumber, and the resolved wavelength
  ssim         structural similarity of maps, 1 where they are equal
The last three look at whole maps: all of them, or an even sample if these would be many. Where a
measure does not apply, such as a spectrum beside land, it says so.

examples:
  romzarr verify run.romzarr run.zarr
  romzarr verify run.romzarr run.zarr --per member --measures bias,ssim
  romzarr verify run.romzarr run.zarr --measures all --json > measured.json
  romzarr verify run.romzarr run.zarr --json --cluster local
"""

APPEND = """\
The settings are those of the store. The exit status is 1 if old snapshots of the archive have
changed since they were stored; the message names the first differing time step. Rewritten chunks of
a Zarr archive are compared with the store. Of a NetCDF file only a few blocks are compared, so
changes elsewhere go unnoticed. Changes smaller than the error of the store always go unnoticed. An
append that was killed resumes from its last commit when it is run again.

examples:
  romzarr compress run.zarr run.romzarr     the first night
  romzarr append run.romzarr run.zarr       every later night
"""

COMPACT = """\
The archive is not needed: what the store decodes to is compressed anew, within what its parts have
left of the bounds, which hold over both. Appended snapshots leave four fifths of theirs for it (but
with the setting compression.compact none). Appends do the same by themselves after many nights. The
old parts stay readable for an hour, and all of them stay if this would not make the store smaller.
"""

RECONSTRUCT = """\
OUT is replaced atomically: whatever is there stays intact until the new archive is complete. Stores
and the archive that STORE was made from are never replaced. A URL must be empty and gets Zarr.

examples:
  romzarr reconstruct run.romzarr again.zarr
  romzarr reconstruct run.romzarr again.nc                            a NetCDF file
  romzarr reconstruct run.romzarr part.zarr --start 100 --stop 200    snapshots 100 to 199
  romzarr reconstruct run.romzarr small.zarr --level 2                every fourth point
"""

EQUATIONS = """\
The equations are fitted to the coefficients in the store, in seconds; the archive is not needed.
Coordinates are a rotation, shift and scaling of the leading modes, chosen so that few terms are
left; they are printed below the equations. Where there are none, the equations of the modes are
printed. Each coefficient has its standard error, as `romzarr identify` prints it. The options
--degree, --states and --threshold fit anew where the choices by statistics do not suit.

examples:
  romzarr equations run.romzarr
  romzarr equations run.romzarr --degree 3 --threshold 0.05 --states 4
  romzarr equations run.romzarr --modes            those that were stored, of the modes
"""

FORECAST = """\
The equations are those that `romzarr equations STORE` prints. An ensemble of 64 trajectories starts
from states at the end of the record, and has coefficients, that are as likely as their errors say.
OUT gets the mean and the standard deviation of every variable coded with modes. Printed is how
long the forecast can be trusted, and how a forecast of the last fifth of the record from the rest
of it fared.

examples:
  romzarr forecast run.romzarr --until 120
  romzarr forecast run.romzarr --until 2001-07-01 --out next.zarr
"""

IDENTIFY = """\
SOURCE is a CSV file, a NetCDF file or a Zarr group of a few time series. The columns of a table are
series if its first row names them, or if it has more rows than columns; else its rows are, as for
`romzarr compress`. Times are the column called time or t, or the first one if it has no name or
if it alone increases in equal steps. Without times the step is 1.

Each coefficient is printed with its standard error, and each term that is less than 99 % sure with
its probability. A sentence on each equation says whether to trust it.

examples:
  romzarr identify lorenz.csv
  romzarr identify rows.csv --dt 0.01 --names x,y,z --degree 2
  romzarr identify table.txt --columns series --json
"""

REPORT = """\
The page opens offline in any browser. --source measures the error and plots it over time and as a
map and by level; it reads the whole archive, or 2 GiB of a larger one. With --measures, which needs
--source, the archive is verified as well, all of it, and its measures are plotted: see
`romzarr verify --help`. The page of the catalogue links to pages named STORE.html that lie beside
their stores. Of a tree of groups PAGE.html lists the groups, and each has a page beside it.

examples:
  romzarr report run.romzarr -o run.romzarr.html
  romzarr report run.romzarr -o run.romzarr.html --source run.zarr
  romzarr report run.romzarr -o run.romzarr.html --source run.zarr --measures all
  romzarr report --catalogue /stores -o /stores/index.html
"""


def parser() -> Parser:
    """Build the parser of ``romzarr``; each command sets ``run`` to the function to call."""
    top = Parser(
        prog="romzarr",
        description="Compress simulation archives into a POD basis and a sparse model of its\n"
        "coefficients, within a guaranteed error bound.",
        epilog=TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.set_defaults(log_format="text")
    top.add_argument("--version", action="version", version=f"romzarr {version('romzarr')}")
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    add_estimate(subparsers)
    add_compress(subparsers)
    add_append(subparsers)
    add_compact(subparsers)
    add_info(subparsers)
    add_verify(subparsers)
    add_reconstruct(subparsers)
    add_equations(subparsers)
    add_forecast(subparsers)
    add_identify(subparsers)
    add_report(subparsers)
    add_demo(subparsers)
    nightly = add_command(subparsers, "nightly", "keep an archive of many datasets compressed")
    add_nightly(nightly)
    add_json(nightly)
    add_where(nightly)
    status = add_command(subparsers, "status", "show the state of every dataset of an archive")
    add_status(status)
    add_json(status)
    add_neural(
        add_command(subparsers, "neural", "train networks as library terms and select among them")
    )
    return top


def add_overwrite(command: Parser, what: str) -> None:
    command.add_argument("--overwrite", action="store_true", help=f"replace {what} if it exists")


def rank(text: str) -> int | str:
    return text if text == "auto" else int(text)


def bounds(text: str) -> dict[str, float | str] | str:
    """Parse variables and bounds, or one share for all; one that is no number is left to the
    settings."""
    if "=" not in text and "%" in text:
        return text
    found: dict[str, float | str] = {}
    for part in text.split(","):
        name, equals, bound = part.rpartition("=")
        name = name.strip()
        if not equals or not name or name in found:
            raise argparse.ArgumentTypeError(
                f"found {part!r}, expected each variable once with its bound: u=0.01,v=0.02"
            )
        try:
            found[name] = float(bound)
        except ValueError:
            found[name] = bound
    return found


def derivatives(text: str) -> dict[str, float] | float | str:
    """Parse derivatives and bounds, or one bound for all gradients.

    >>> derivatives("gradient(u)=0.05, vorticity(u, v)=0.01")
    {'gradient(u)': 0.05, 'vorticity(u, v)': 0.01}
    """
    if text == NONE:
        return text
    if "=" not in text:
        return float(text)
    found: dict[str, float] = {}
    for part in re.split(r",(?![^(]*\))", text):
        name, equals, bound = part.rpartition("=")
        if not equals or name.strip() in found:
            raise argparse.ArgumentTypeError(
                f"found {part!r}, expected each derivative once with its bound: "
                "'gradient(u)=0.05,vorticity(u,v)=0.01'"
            )
        found[name.strip()] = float(bound)
    return found


def names(text: str) -> list[str] | str:
    return text if text == ALL else [name.strip() for name in text.split(",")]


def measures(text: str) -> list[str] | str:
    found = names(text)
    unknown = sorted({*found} - {*FurtherMeasure, ALL}) if found != ALL else []
    if unknown:
        raise argparse.ArgumentTypeError(
            f"found {unknown[0]!r}, allowed are {', '.join(FurtherMeasure)} and {ALL}"
        )
    return found


def dims(text: str) -> list[str] | str:
    return text if text in (AUTO, NONE) else [name.strip() for name in text.split(",")]


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def add_selection(command: Parser) -> None:
    command.add_argument(
        "--variables",
        type=names,
        metavar="U,V",
        help="comma-separated names or patterns, such as 't_*', to compress (default all)",
    )
    command.add_argument(
        "--exclude",
        type=names,
        metavar="U,V",
        help="comma-separated names or patterns to leave out, whatever they are",
    )
    command.add_argument(
        "--columns",
        choices=[each.value for each in Layout],
        help="what the columns of a CSV file are: series, or times (default auto: series if the "
        "first row names them, or if there are more rows than columns)",
    )
    command.add_argument(
        "--series",
        choices=[each.value for each in Series],
        help="what the named series of a CSV file are: one variable with labelled rows (default "
        "one), or a variable each",
    )
    add_engine(command, "auto: romzarr's own readers, and cfgrib for GRIB")


def add_engine(command: Parser, default: str = "auto") -> None:
    command.add_argument(
        "--engine",
        metavar="NAME",
        help="engine with which xarray opens SOURCE: cfgrib, h5netcdf, scipy, or any other that is "
        f"installed (default {default})",
    )


def add_estimate(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "estimate",
        "show what compression would give, without writing",
        commands.estimate,
        "source",
        epilog=ESTIMATE,
    )
    command.add_argument(
        "--tolerances",
        type=numbers,
        metavar="X,Y",
        default=[1e-1, 1e-2, 1e-3, 1e-4],
        help="comma-separated tolerances to try (default 1e-1,1e-2,1e-3,1e-4)",
    )
    add_selection(command)
    command.add_argument(
        "--weights",
        metavar="W",
        help="weights in the error norm: none, cos(latitude), or the name of a variable",
    )
    add_time(command)
    add_json(command)
    add_where(command)


def add_compress(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "compress",
        "compress an archive",
        commands.compress,
        "source",
        "store",
        more=SOURCES,
        epilog=COMPRESS,
    )
    add_bounds(command)
    add_selection(command)
    command.add_argument(
        "--max-rank", type=rank, metavar="N", help="maximum number of POD modes (default auto)"
    )
    command.add_argument(
        "--weights",
        metavar="W",
        help="weights in the error norm: none, cos(latitude), or the name of a variable",
    )
    add_time(command)
    add_overwrite(command, "STORE")
    add_json(command)
    add_where(command)


def add_time(command: Parser) -> None:
    command.add_argument(
        "--time",
        metavar="DIM",
        help="name of the time dimension; each: all of several, in a tree of stores with a group "
        "for each (default auto)",
    )


def add_bounds(command: Parser) -> None:
    """Add what a store is asked to keep."""
    command.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="bound on the L2 error of every variable, relative to its fluctuation about its "
        "temporal mean, above 0 and below 1 (default 1e-2, which keeps 99.99 %% of the variance); "
        "0 is lossless",
    )
    command.add_argument(
        "--max-error",
        type=bounds,
        metavar="U=X,V=Y",
        help="bounds on the error of every value of these variables: in their units, or shares "
        "such as 1%% (of the range of the variable) and '1%% of value' (of each value; zeros are "
        "exact); 1%% alone is that of all variables. Without --tolerance they are all that is "
        "asked, if all variables have one",
    )
    command.add_argument(
        "--per",
        type=dims,
        metavar="D,E",
        help="dims of whose indices each has the bound, relative to its own fluctuation: auto are "
        "the vertical and labelled ones (default), none is one bound for each variable as a whole",
    )
    command.add_argument(
        "--fluctuation",
        choices=[each.value for each in Reference],
        help="what fluctuations, to which the tolerance is relative, are about: the temporal mean "
        "(default), or the climatology, which is the mean of each calendar month and, if there are "
        "several snapshots a day, of each hour in it",
    )
    command.add_argument(
        "--sums",
        type=dims,
        metavar="A,B",
        help="variables of the archive that hold weights, such as cell areas: sums over their dims "
        "with these weights are exact at every snapshot but for rounding (default none)",
    )
    command.add_argument(
        "--derivatives",
        type=derivatives,
        metavar="D=X,E=Y",
        help="bounds on the L2 error of derivatives in space, relative to their own fluctuation: "
        "0.05 for the gradients of all variables along each dim, or derivatives by name such as "
        "'gradient(u)=0.05, vorticity(u,v)=0.01, divergence(u,v)=0.01' (default none)",
    )
    command.add_argument(
        "--layers",
        type=numbers,
        metavar="T,U",
        help="larger tolerances, such as 0.1,0.03, at which a part of the bytes can be read as "
        "well (default none)",
    )


def add_append(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "append",
        "append new snapshots of an archive to its store",
        commands.append,
        "store",
        "source",
        more="Only new and rewritten snapshots are read. Running it twice is harmless.",
        epilog=APPEND,
    )
    add_engine(command, "that of the store")
    add_json(command)
    add_where(command)


def add_compact(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "compact",
        "put the parts of a store together, from the store alone",
        commands.compact,
        "store",
        more="Nothing is written where the store would not become smaller.",
        epilog=COMPACT,
    )
    add_json(command)
    add_where(command)


def add_info(subparsers: Subparsers) -> None:
    command = add_command(subparsers, "info", "show what a store contains", commands.info, "store")
    add_group(command, "show this group of a tree (default each in turn)")
    add_json(command)


def add_verify(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "verify",
        "measure the error of a store against its source",
        commands.verify,
        "store",
        "source",
        epilog=VERIFY,
    )
    add_engine(command, "that of the store")
    command.add_argument(
        "--sample",
        action="store_true",
        help="compare a few blocks of each variable, and more only where these look wrong",
    )
    command.add_argument(
        "--per",
        dest="shown_per",  # no setting: stores stay as they were made
        type=names,
        metavar="DIM,DIM",
        default=(),
        help="show the error on each index of these dims as well as of vertical ones",
    )
    add_measures(command)
    add_json(command)
    add_where(command)


def add_group(command: Parser, what: str) -> None:
    command.add_argument("--group", metavar="NAME", help=what)


def add_measures(command: Parser) -> None:
    command.add_argument(
        "--measures",
        type=measures,
        metavar="NAME,NAME",
        default=(),
        help=f"further measures: {', '.join(FurtherMeasure)}, or all (default none)",
    )


def add_reconstruct(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "reconstruct",
        "decode a store into a Zarr archive or a NetCDF file",
        commands.reconstruct,
        "store",
        epilog=RECONSTRUCT,
    )
    command.add_argument("out", metavar="OUT", help="path ending in .zarr or .nc, or a URL")
    command.add_argument(
        "--start",
        type=int,
        metavar="I",
        help="first snapshot (default 0); negative numbers count from the end",
    )
    command.add_argument("--stop", type=int, metavar="J", help="first snapshot after the range")
    command.add_argument(
        "--level",
        type=int,
        metavar="K",
        default=0,
        help="grid of every 2**K-th point (default 0: the whole one)",
    )
    command.add_argument(
        "--modes", type=int, metavar="N", help="number of leading POD modes (default all)"
    )
    add_group(command, "decode this group of a tree (default all, into an archive of groups)")
    add_overwrite(command, "an archive at OUT")
    add_where(command)


def add_equations(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "equations",
        "print the equations of a store: of its field, of up to four series, or of its modes",
        commands.equations,
        "store",
        epilog=EQUATIONS,
    )
    add_group(command, "print those of this group of a tree (default each in turn)")
    command.add_argument(
        "--modes",
        action="store_true",
        help="those of the POD coefficients; without other options as they are stored",
    )
    add_fit(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--latex", action="store_true", help="print those of the POD coefficients as LaTeX"
    )
    form.add_argument("--json", action="store_true", help="print one JSON object instead")


def add_forecast(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "forecast",
        "continue the fields of a store beyond its record, by its equations",
        commands.forecast,
        "store",
        epilog=FORECAST,
    )
    add_group(command, "group of a tree; needed if it has several")
    command.add_argument(
        "--until",
        required=True,
        metavar="T",
        help="time at which to end, as in the time coordinate; a date where it has dates",
    )
    command.add_argument(
        "--out", metavar="OUT", help="write the fields to a new archive, .zarr or .nc"
    )
    command.add_argument(
        "--unbounded",
        action="store_true",
        help="let trajectories leave the region of the data",
    )
    add_fit(command)
    add_json(command)


def add_fit(command: Parser) -> None:
    """Add the options of a fit to what a store holds."""
    command.add_argument(
        "--degree", type=int, metavar="N", help="highest degree of the terms (default auto)"
    )
    command.add_argument(
        "--states", type=int, metavar="N", help="number of leading modes, 1 to 8 (default auto)"
    )
    command.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="keep terms that contribute at least this share of a derivative",
    )


def add_identify(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "identify",
        "find the differential equations of a few time series",
        commands.identify,
        "source",
        epilog=IDENTIFY,
    )
    command.add_argument(
        "--columns",
        choices=[each.value for each in Layout],
        type=Layout,
        default=Layout.AUTO,
        help="what the columns of a table are (default auto)",
    )
    command.add_argument("--dt", type=float, metavar="X", help="time step of a file without times")
    command.add_argument(
        "--names", type=names, metavar="X,Y", help="comma-separated names of the series"
    )
    command.add_argument(
        "--degree", type=int, metavar="N", help="highest degree of the terms (default auto)"
    )
    command.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="keep terms that contribute at least this share of a derivative, in place of "
        "statistics",
    )
    command.add_argument("--time", metavar="DIM", help="name of the time dimension (default auto)")
    add_json(command)
    add_where(command)


def add_report(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "report",
        "write an HTML page about a store or about all stores",
        commands.report,
        epilog=REPORT,
    )
    command.add_argument("store", metavar="STORE", nargs="?")
    command.add_argument("-o", "--output", metavar="PAGE.html", required=True, help="page to write")
    command.add_argument("--source", metavar="SOURCE", help="measure the error against the archive")
    add_group(
        command, "write the page of this group of a tree (default all, and a page that lists them)"
    )
    add_measures(command)
    command.add_argument(
        "--catalogue",
        metavar="STORES",
        type=whole_place,
        help="list the datasets of `romzarr nightly` instead",
    )
    add_where(command)


def add_demo(subparsers: Subparsers) -> None:
    command = add_command(
        subparsers,
        "demo",
        "simulate a cylinder wake, compress it, verify it and draw a picture",
        commands.demo,
        more="The simulation takes less than a minute. Later runs reuse its result.",
    )
    add_directory(command, "romzarr-demo")
    add_where(command)
