"""Chunks of a store forged with the checksums that belong to them, of every coding."""

from __future__ import annotations

import random
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from romzarr.errors import PipelineError
from romzarr.store import checksums
from romzarr.store.reading.reader import open_store
from tests.forgery import write_chunk
from tests.torture import data
from tests.torture.campaign import Campaign, Case, Outcome

# What reading any forged store may take.
MOST_SECONDS, MOST_BYTES = 10.0, 500_000_000
WAYS = ("bytes", "random", "cut", "extend", "repeat", "other")


class Payloads(Campaign):
    """Reading gives an error of ours or some values, and takes neither long nor much memory."""

    name = "payloads"
    what = "chunks with right checksums whose payloads are changed, random, or those of others"
    slice = 30

    def __init__(self, folder: Path, shared: Path, seed: int) -> None:
        super().__init__(folder, shared, seed)
        self._stores: dict[str, Path] = {}

    def _store(self, kind: str) -> Path:
        if kind not in self._stores:
            self._stores[kind] = self.folder / kind
            shutil.copytree(data.stored(self.shared, kind), self._stores[kind])
            # What is imported and allocated once is nobody's fault.
            data.load(self._stores[kind])
        return self._stores[kind]

    def cases(self) -> Iterator[Case]:
        chunks = {kind: _chunks_of(self._store(kind)) for kind in data.MAKERS}
        for number in range(1 << 62):
            rng = random.Random(f"{self.seed} {number}")
            kind = rng.choice(list(chunks))
            file, other = rng.choice(chunks[kind]), rng.choice(chunks[kind])
            yield {
                "kind": kind,
                "file": file,
                "other": other,
                "how": rng.choice(WAYS),
                "seed": rng.randrange(1 << 32),
            }

    def run(self, case: Case) -> Outcome:
        store = self._store(case["kind"])
        file = store / case["file"]
        content = file.read_bytes()
        other = (store / case["other"]).read_bytes()[: -checksums.SIZE]
        payload = content[: -checksums.SIZE]
        write_chunk(file, _forged(payload, other, case["how"], random.Random(case["seed"])))
        try:
            return _read(store)
        finally:
            file.write_bytes(content)

    def brings(self, case: Case) -> list[str]:
        return [f"{case['kind']}-0"]


def _chunks_of(store: Path) -> list[str]:
    return [name for name in data.files_of(store) if checksums.array_of(name)]


def _forged(payload: bytes, other: bytes, how: str, rng: random.Random) -> bytes:
    if how == "other":
        return other
    if how == "random":
        return rng.randbytes(rng.choice([0, 1, 2, 7, len(payload), 4 * len(payload)]))
    if how == "cut":
        return payload[: rng.randrange(len(payload) + 1)]
    if how == "extend":
        return payload + rng.randbytes(rng.randint(1, 64))
    if how == "repeat":
        return payload * rng.randint(2, 200)
    changed = bytearray(payload)
    # Most headers are at the start.
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(changed), rng.choice([2, 16, len(changed)])))
        changed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(changed)


def _read(store: Path) -> Outcome:
    began, held = time.process_time(), _peak_bytes()
    kinds = []
    for action in (lambda: data.load(store), lambda: open_store(store).check_files()):
        try:
            action()
            kinds.append("read")
        except PipelineError:
            kinds.append("refused")
    seconds, more = time.process_time() - began, _peak_bytes() - held
    if seconds > MOST_SECONDS or more > MOST_BYTES:
        return Outcome(wrong=f"reading takes {seconds:.1f} s of CPU and {more} bytes more")
    return Outcome(("refused" if "refused" in kinds else "read",))


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
