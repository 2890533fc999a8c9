"""Every bit of every file of one store of each coding, flipped."""

from __future__ import annotations

import random
import shutil
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from math import gcd
from pathlib import Path

from tests.torture import data
from tests.torture.campaign import Campaign, Case, Outcome
from tests.torture.damage import Expected, outcome_of

# Every so many flips are read as users read; the others in a third of the time.
AS_USERS_DO = 16


class Flips(Campaign):
    """Single bits. First all of the roots and of one file of each sort, then of all files."""

    name = "flips"
    what = "single bits of files of a store flipped"
    slice = 120
    share = 3.0

    def __init__(self, folder: Path, shared: Path, seed: int) -> None:
        super().__init__(folder, shared, seed)
        self._expected: dict[str, Expected] = {}

    def prepare(self) -> None:
        for kind in data.MAKERS:
            self._expected_of(kind)

    def _expected_of(self, kind: str) -> Expected:
        if kind not in self._expected:
            shutil.copytree(data.stored(self.shared, kind), self.folder / kind)
            self._expected[kind] = Expected(self.folder / kind)
        return self._expected[kind]

    def cases(self) -> Iterator[Case]:
        rng = random.Random(self.seed)
        chosen = [each for bits in self._first(rng).values() for each in bits]
        rng.shuffle(chosen)
        for kind, name, bit in chosen:
            yield {"kind": kind, "file": name, "bit": bit, "first": True}
        done = set(chosen)
        for kind, name, bit in self._scattered(rng):
            if (kind, name, bit) not in done:
                yield {"kind": kind, "file": name, "bit": bit}

    def _scattered(self, rng: random.Random) -> Iterator[tuple[str, str, int]]:
        """Every bit of every file once, in an order that visits all files soon."""
        files = self._files()
        ends = list(accumulate(8 * size for _, _, size in files))
        total = ends[-1]
        # Multiples of a number without common divisor come to every place.
        stride = next(n for n in iter(lambda: rng.randrange(1, total), 0) if gcd(n, total) == 1)
        for number in range(total):
            place = number * stride % total
            file = bisect_right(ends, place)
            kind, name, size = files[file]
            yield kind, name, place - (ends[file] - 8 * size)

    def _files(self) -> list[tuple[str, str, int]]:
        return [
            (kind, name, (self.folder / kind / name).stat().st_size)
            for kind in data.MAKERS
            for name in data.files_of(self.folder / kind)
        ]

    def _first(self, rng: random.Random) -> dict[str, list[tuple[str, str, int]]]:
        """All bits of all roots, and of the shortest file of every other sort, in any order."""
        chosen: dict[str, list[tuple[str, str, int]]] = {"root": []}
        files = sorted(self._files(), key=lambda each: (each[2], each[0], each[1]))
        for kind, name, size in files:
            sort = data.sort_of(name)
            if sort != "root" and sort in chosen:
                continue
            bits = rng.sample(range(8 * size), 8 * size)
            chosen.setdefault(sort, []).extend((kind, name, bit) for bit in bits)
        return chosen

    def totals(self) -> dict[str, int]:
        return {sort: len(bits) for sort, bits in self._first(random.Random(self.seed)).items()}

    def run(self, case: Case) -> Outcome:
        expected = self._expected_of(case["kind"])
        file = expected.store / case["file"]
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[case["bit"] // 8] ^= 1 << case["bit"] % 8
        same = expected.quickly if case["bit"] % AS_USERS_DO else expected.as_users_do
        file.write_bytes(flipped)
        try:
            outcome = outcome_of(expected.store, same, [case["file"]])
        finally:
            file.write_bytes(content)
        sort = (data.sort_of(case["file"]),) if case.get("first") else ()
        return Outcome((*outcome.kinds, *sort), outcome.wrong)

    def brings(self, case: Case) -> list[str]:
        return [f"{case['kind']}-0"]
