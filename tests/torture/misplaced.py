"""Files that are cut, gone, swapped, rolled back, or of another store."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from romzarr.store import layout
from tests.torture import data
from tests.torture.campaign import Campaign, Case, Outcome
from tests.torture.damage import Expected, outcome_of
from tests.torture.processes import HangsError

# Of each store there is one of other data, whose files have the same names.
SEEDS = (0, 1)
# Seconds after which a read that has not ended hangs.
PATIENCE = 60
CUTS = ("all", "last byte", "half", "checksum")


class Misplaced(Campaign):
    """Each damage of each file for itself once, in any order; then two at once."""

    name = "misplaced"
    what = "files swapped, cut, gone, overwritten, rolled back, of another store, links, FIFOs"
    slice = 40

    def __init__(self, folder: Path, shared: Path, seed: int) -> None:
        super().__init__(folder, shared, seed)
        self._expected: dict[str, Expected] = {}

    def prepare(self) -> None:
        for kind in data.MAKERS:
            self._expected_of(kind)

    def _expected_of(self, kind: str) -> Expected:
        if kind not in self._expected:
            for seed in SEEDS:
                data.stored(self.shared, kind, seed)
            self._restore(kind)
            self._expected[kind] = Expected(self.folder / kind)
        return self._expected[kind]

    def _restore(self, kind: str) -> None:
        shutil.rmtree(self.folder / kind, ignore_errors=True)
        shutil.copytree(self.shared / f"{kind}-0", self.folder / kind)

    def cases(self) -> Iterator[Case]:
        rng = random.Random(self.seed)
        single = [
            {"kind": kind, "damages": [damage]}
            for kind in data.MAKERS
            for damage in self._damages(kind)
        ]
        rng.shuffle(single)
        yield from single
        while True:
            one, other = rng.choice(single), rng.choice(single)
            yield {"kind": one["kind"], "damages": [*one["damages"], *other["damages"]]}

    def _damages(self, kind: str) -> Iterator[dict[str, str]]:
        files = data.files_of(self.folder / kind)
        for name in files:
            for how in ("delete", "extend", "zeros", "scramble", "foreign", "link", "fifo"):
                yield {"how": how, "file": name}
            for cut in CUTS:
                yield {"how": "cut", "file": name, "other": cut}
        for one, other in itertools.combinations(files, 2):
            yield {"how": "swap", "file": one, "other": other}
            yield {"how": "copy", "file": one, "other": other}
        if kind == "replaced":
            yield from ({"how": "rollback", "file": name} for name in files[1:])

    def run(self, case: Case) -> Outcome:
        expected = self._expected_of(case["kind"])
        before = _contents(expected.store)
        try:
            for damage in case["damages"]:
                self._damage(expected.store, case["kind"], damage)
            after = _contents(expected.store)
            changed = [n for n in before.keys() | after.keys() if before.get(n) != after.get(n)]
            if not changed:
                return Outcome(("nothing changed",))
            with _patience():
                return outcome_of(expected.store, expected.as_users_do, changed)
        finally:
            _release(expected.store)
            self._restore(case["kind"])

    def _damage(self, store: Path, kind: str, damage: dict[str, str]) -> None:
        file, how = store / damage["file"], damage["how"]
        # Two at once may be of different stores, or the first may have taken the file away.
        needed = [file, store / damage["other"]] if how in ("swap", "copy") else [file]
        if not all(each.exists() for each in needed):
            return
        if how == "delete":
            file.unlink()
        elif how in ("link", "fifo"):
            _replace(file, how, self.shared / f"{kind}-0" / damage["file"])
        elif how in ("swap", "copy"):
            other = store / damage["other"]
            content = file.read_bytes()
            if how == "swap":
                file.write_bytes(other.read_bytes())
            other.write_bytes(content)
        elif how in ("foreign", "rollback"):
            source = self._counterpart(store, kind, damage["file"], how)
            if source.exists():
                shutil.copyfile(source, file)
        else:
            file.write_bytes(_spoiled(file.read_bytes(), how, damage.get("other", "")))

    def _counterpart(self, store: Path, kind: str, name: str, how: str) -> Path:
        """The file of the same meaning in another store, or in what was replaced here."""
        if how == "rollback":
            (old,) = layout.current_root(str(store)).superseded
            return store / old.generation / name.partition("/")[2]
        other = self.shared / f"{kind}-1"
        if name == layout.ROOT:
            return other / name
        generation, _, below = name.partition("/")
        parts = [part.generation for part in layout.current_root(str(store)).parts]
        # Found by its place among the parts, as generations have names of their own.
        theirs = layout.current_root(str(other)).parts[parts.index(generation)]
        return other / theirs.generation / below

    def brings(self, case: Case) -> list[str]:
        return [f"{case['kind']}-{seed}" for seed in SEEDS]


def _spoiled(content: bytes, how: str, cut: str) -> bytes:
    if how == "extend":
        return content + b"\0"
    if how == "zeros":
        return bytes(len(content))
    if how == "scramble":
        return random.Random(len(content)).randbytes(len(content))
    return {
        "all": b"",
        "last byte": content[:-1],
        "half": content[: len(content) // 2],
        "checksum": content[:-4],
    }[cut]


def _replace(file: Path, how: str, elsewhere: Path) -> None:
    """Put what is no regular file in the place of one."""
    file.unlink()
    if how == "link":
        # What it leads to is right, but it is none of the store's.
        file.symlink_to(elsewhere)
    else:
        os.mkfifo(file)


def _contents(store: Path) -> dict[str, bytes]:
    """What every file holds, or what it is if it is no regular one."""
    paths = [path for path in store.rglob("*") if not path.is_dir()]
    return {
        str(path.relative_to(store)): path.read_bytes()
        if stat.S_ISREG(mode := path.lstat().st_mode)
        else str(stat.S_IFMT(mode)).encode()
        for path in paths
    }


@contextmanager
def _patience() -> Iterator[None]:
    """Fail where nothing happens any more, as where somebody waits for the writer of a FIFO."""

    def give_up(*_: object) -> None:
        raise HangsError(f"nothing happens after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _release(store: Path) -> None:
    """Let those go that wait for the writer of a FIFO."""
    for path in store.rglob("*"):
        if path.is_fifo():
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
