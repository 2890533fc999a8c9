"""Arguments of ``romzarr nightly`` and ``romzarr status``."""

from __future__ import annotations

from romzarr.config import whole_place
from romzarr_flows.nightly import commands
from romzarr_flows.parsing import Parser

NIGHTLY = """\
examples:
  romzarr nightly --config config.yaml --dry-run        what there is to do, with sizes
  romzarr nightly --config config.yaml                  all of it
  romzarr nightly --config config.yaml --only "2031/**" --since 7d --max-hours 6

The section nightly of the file says where archive and stores are. Datasets are never changed
or deleted. What is stored and unchanged is skipped; interrupted at any point, the next run
goes on. Triggers (cron, systemd, Kubernetes, SLURM) are in deploy/.

exit status: 0 all stored, or time was up; 1 some failed, and are named; 2 nothing could be done,
or no dataset was found at all
"""

STATUS = """\
examples:
  romzarr status /data/stores                what is in the catalogue, held against what is there
  romzarr status --config config.yaml        new datasets of nightly.archive too
  romzarr status /data/stores --json
  romzarr status /data/stores > status.txt || mail -s "romzarr needs you" me < status.txt

exit status: 0 nothing is broken; 1 a dataset is failed, clash, damaged, missing or killed, or the
last run was killed or stopped; 2 wrong usage
"""


def add_nightly(command: Parser) -> None:
    command.epilog = NIGHTLY
    command.set_defaults(run=commands.nightly)
    command.add_argument(
        "--dry-run", action="store_true", help="print the plan with sizes, and do nothing"
    )
    command.add_argument(
        "--quiet", action="store_true", help="print nothing if there was nothing to do, for cron"
    )
    command.add_argument(
        "--only", default="**", metavar="PATTERN", help="datasets that match this glob too"
    )
    command.add_argument(
        "--since",
        metavar="WHEN",
        help="datasets written to since a date (2031-07-01) or within an age (36h, 7d)",
    )
    command.add_argument(
        "--max-hours",
        type=float,
        metavar="H",
        help="begin no dataset after so many hours, and finish what is begun",
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
    command.add_argument("--config", metavar="FILE", help="settings, for nightly.archive")
