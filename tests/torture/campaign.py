"""What a campaign is: cases made out of a seed, and what came of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

# Parameters of a case: JSON values.
Case = dict[str, Any]

# Kinds of outcomes that have a column of their own on the page; others are notes.
COLUMNS = ("refused", "same", "found")


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes
    ----------
    kinds : tuple of str
        "refused": reading gave an error; "same": it gave the right values; "found": the check of
        all files named the file; and what else is worth counting.
    wrong : str
        What must not be; empty if all is well.
    tried : int
        What the case counts for, such as kills.
    """

    kinds: tuple[str, ...] = ()
    wrong: str = ""
    tried: int = 1


@dataclass
class Counts:
    """Sums over the cases of a campaign."""

    cases: int = 0
    tried: int = 0
    wrong: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.cases += 1
        self.tried += outcome.tried
        self.wrong += bool(outcome.wrong)
        self.kinds.update(outcome.kinds)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "kinds": dict(self.kinds)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Counts:
        return cls(**{**document, "kinds": Counter(document["kinds"])})

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.cases + other.cases,
            self.tried + other.tried,
            self.wrong + other.wrong,
            self.kinds + other.kinds,
        )


class Campaign(ABC):
    """One way to look for what is wrong.

    Parameters
    ----------
    folder : Path
        Where it may do what it likes.
    shared : Path
        Holds what all processes of a run have alike, such as the stores that are damaged.
    seed : int
        The cases are the same for the same seed.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    # Cases that the ordinary suite runs.
    slice: ClassVar[int]
    # Of the time of a run, relative to other campaigns.
    share: ClassVar[float] = 1.0

    def __init__(self, folder: Path, shared: Path, seed: int) -> None:
        self.folder, self.shared, self.seed = folder, shared, seed

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Make what cases need; not called where a saved case is replayed that brings it."""

    @abstractmethod
    def cases(self) -> Iterator[Case]:
        """Cases without end, or all there are."""

    @abstractmethod
    def run(self, case: Case) -> Outcome:
        """Try a case; what it raises is wrong, too."""

    def brings(self, case: Case) -> list[str]:
        """Folders below `shared` that a saved case has to bring along to mean the same."""
        return []

    def totals(self) -> dict[str, int]:
        """How many cases of some kinds there are at all."""
        return {}
