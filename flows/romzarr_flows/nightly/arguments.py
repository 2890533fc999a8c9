"""Arguments of ``romzarr nightly`` and ``romzarr status``."""

from __future__ import annotations

from romzarr.config import whole_place
from romzarr_flows.nightly import commands
from romzarr_flows.parsing import Parser

NIGHTLY = """\
examples:
  romzarr nightly --config config.yaml --dry-run        list the work, with sizes
  romzarr nightly --config config.yaml                  do all of it
  romzarr nightly --config config.yaml --only "2031/**" --since 7d --max-hours 6

The section nightly of FILE says where the archive and the stores are. Datasets are never changed
or deleted. Datasets that are stored and unchanged are skipped. After an interruption the next run
continues. deploy/ has files for cron, systemd, Kubernetes and SLURM.

exit status: 0 all datasets are stored, or time ran out; 1 some datasets failed and are named; 2 the
run could not start, or found no dataset
"""

STATUS = """\
examples:
  romzarr status /data/stores                compare the catalogue with the files that exist
  romzarr status --config config.yaml        also list new datasets of nightly.archive
  romzarr status /data/stores --json
  romzarr status /data/stores > status.txt || mail -s "romzarr needs you" me < status.txt

exit status: 0 no problem; 1 a dataset is failed, clash, damaged, missing or killed, or the last run
was killed or stopped; 2 invalid usage
"""


def add_nightly(command: Parser) -> None:
    command.epilog = NIGHTLY
    command.set_defaults(run=commands.nightly)
    command.add_argument(
        "--dry-run", action="store_true", help="print the plan with sizes and stop"
    )
    command.add_argument(
        "--quiet", action="store_true", help="print nothing if there is nothing to do, for cron"
    )
    command.add_argument(
        "--only",
        default="**",
        metavar="PATTERN",
        help="only datasets that match this glob as well as nightly.pattern",
    )
    command.add_argument(
        "--since",
        metavar="WHEN",
        help="only datasets modified since a date (2031-07-01) or within an age (36h, 7d)",
    )
    command.add_argument(
        "--max-hours",
        type=float,
        metavar="H",
        help="start no dataset after this many hours; those in progress are finished",
    )


def add_status(command: Parser) -> None:
    command.epilog = STATUS
    command.set_defaults(run=commands.status, cluster=None)
    command.add_argument(
        "stores",
        metavar="STORES",
        nargs="?",
        type=whole_place,
        help="folder or URL of the stores",
    )
    command.add_argument("--config", metavar="FILE", help="settings file with nightly.archive")
