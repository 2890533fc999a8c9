"""The record of a run: a JSON file beside the stores, written at its start and at its end."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any

from romzarr_flows.nightly.catalogue import Catalogue, Entry, now
from romzarr_flows.nightly.plan import Job, Plan


@dataclass
class Record:
    """The record of a run in progress.

    ``state`` is "running" (also after the run was killed), "done", or why the run ended early:
    "interrupted", "out of time", "stopped". ``outcomes`` describes each processed dataset, ``left``
    names the datasets not reached, ``vanished`` those that no longer exist.
    """

    name: str
    began: datetime
    datasets: int
    settings: Mapping[str, Any]
    state: str = "running"
    reason: str = ""
    kept: tuple[Job, ...] = ()
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    left: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()

    def add(self, job: Job, entry: Entry, seconds: float) -> None:
        self.outcomes.append(
            {
                "dataset": entry.dataset,
                "found": job.state,
                "state": entry.state,
                "message": entry.message,
                "archive_bytes": job.dataset.nbytes,
                "raw_bytes": entry.raw_bytes,
                "stored_bytes": entry.stored_bytes,
                "ratio": entry.ratio,
                "relative_l2_error": entry.relative_l2_error,
                "tolerance": entry.tolerance,
                "verified": entry.verified,
                "seconds": round(seconds, 3),
            }
        )

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing to do and nothing to report."""
        return self.state == "done" and not (self.outcomes or self.vanished)

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [outcome for outcome in self.outcomes if outcome["state"] == "failed"]

    @property
    def stored(self) -> list[dict[str, Any]]:
        return [outcome for outcome in self.outcomes if outcome["state"] == "stored"]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values; datasets that needed no work are only counted."""
        return {
            "began": self.began.isoformat(),
            "ended": "" if self.state == "running" else now().isoformat(),
            "state": self.state,
            "reason": self.reason,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "version": version("romzarr"),
            "settings": self.settings,
            "counts": {
                "datasets": self.datasets,
                "kept": len(self.kept),
                **Counter(outcome["state"] for outcome in self.outcomes),
                "left": len(self.left),
            },
            "datasets": self.outcomes,
            "left": list(self.left),
            "vanished": list(self.vanished),
        }


def begun(catalogue: Catalogue, plan: Plan, settings: Mapping[str, Any]) -> Record:
    """Start the record of a run, under a unique name."""
    began, taken = now(), set(catalogue.records())
    stem = f"runs/{began:%Y%m%dT%H%M%SZ}"
    # Clocks may go back, and two short runs may start within a second.
    names = (f"{stem}{'' if i == 0 else f'-{i}'}.json" for i in range(len(taken) + 1))
    return Record(
        name=next(name for name in names if name not in taken),
        began=began,
        datasets=len(plan.jobs) + len(plan.kept),
        settings=settings,
        kept=plan.kept,
        vanished=tuple(entry.dataset for entry in plan.vanished),
    )


def write(catalogue: Catalogue, record: Record) -> None:
    content = json.dumps(record.to_dict(), indent=1, allow_nan=False)
    catalogue.folder.write(record.name, content.encode())
