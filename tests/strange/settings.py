"""Settings as strangers write them: YAML texts that are changed at random, and used."""

from __future__ import annotations

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.config import KNOWN_KEYS, load_config
from tests.forged import EXTREMES
from tests.strange.guard import called, commanded, names_below, within_limits

DOCUMENTED = Path(__file__).parents[2] / "config.yaml"
SMALL = (
    "compression: {tolerance: 1e-3, max_rank: 4}\n",
    "library: {kind: symbolic, expressions: ['a1*sin(a2)', 'exp(-a1**2)'], modes: 2}\n",
    "library:\n  kind: polynomial+fourier\n  degree: 3\n  frequencies: 2\n",
    "weak_form: {test_function: 'cos(pi*s/2)**4', support: 4.0, spacing: 1.0}\n",
    "sparse_regression: {threshold: 0.1, ridge: 1e-8, max_iterations: 5}\n",
    "archive: {time: time, variables: [u], weights: none}\ncompression:\n  max_error: {u: 0.01}\n",
    "cluster: {kind: threads, workers: 2}\n",
    "compression: {tolerance: 0}\n",
)
# Words of YAML and of settings, and what is none.
VALUES = (
    "", "~", "null", "auto", "none", "all", "true", "no", "0", "-0.0", "1", "2", "300", "1e-2",
    "1e400", ".nan", ".inf", "-.inf", "0x7f", "0o17", "1_000", "190:20:30", "9" * 400,
    "1" + "0" * 5000, "[]", "{}", "[a, a]", "[[]]", "{a: b}", "{u: 1e-3}", "{u: .nan}", "{1: 2}",
    "{? [a] : b}", "&a [x]", "*a", "!!binary aGk=", "!!binary '*'", "!!timestamp 2001-99-99",
    "2001-01-01", "!!python/object/apply:os.system [true]", "!!set {a}", "!!omap [a: b]",
    "!!int x",
    "!!float x", "!!null x", "!!bool x", "!u x", "!<tag:yaml.org,2002:int> 1_", "'it''s'",
    '"\\x1b[2J"',
    '"\\ud800"', '"\\0"', '"\\U00110000"', "|\n    a\n    b", ">-\n    a", "@", "`", "%",
    "%YAML 9.9",
    "---",
    "\t", "- a", "a: b: c", "<<: {a: b}", "\x00", "\x07", "\ufeff", "\u2028", "\x85", "\ud800",
    "é",
    "polynomial", "polynomial+symbolic", "symbolic", "neural", "fourier", "bell(8)", "bell(0)",
    "bell(1e9)", "(1-s**2)**9", "s", "exp(exp(exp(s)))", "(1-s**2)**(10**9)", "(1-s**2)**0.5",
    "['a1**a1**a1']", "['(((a1**8)**8)**8)**8']", "['1/a1']", "['__import__(\"os\")']", "['a99']",
    "['sqrt(a1)']", "['" + "(" * 3000 + "']", "['a1" + "+a1" * 3000 + "']", "['lambda: 0']",
    "nothing/there", "/", "/dev/zero", "/etc/passwd", "lat", "x", "time", "u", "[u, x]", "[none]",
)  # fmt: skip


# Values that are allowed, those at the ends of what is allowed among them.
ALLOWED = {
    "archive.time": ("auto", "time"),
    "archive.weights": ("none", "x"),
    "compression.tolerance": ("0", "1e-2", "0.99", "1e-12", "1e-300"),
    "compression.max_error": ("{u: 1e-3}", "{u: 1e-300}", "{u: 1e300}", "none", "{x: 1}"),
    "compression.max_rank": ("1", "2", "auto", "9" * 30),
    "layout.tile": ("auto", "{time: 1}", "{x: 3, time: 7}", "{lat: 2}", "{time: 9999999999}"),
    "weak_form.test_function": (
        "bell",
        "bell(1)",
        "bell(8)",
        "bell(300)",
        "(1-s**2)**2",
        "cos(pi*s/2)",
    ),
    "weak_form.support": ("auto", "4", "1e-300", "1e300", "39", "1e-3"),
    "weak_form.spacing": ("auto", "1", "1e-300", "1e300", "1e-6"),
    "weak_form.block_steps": ("auto", "2", "39", "9" * 30),
    "library.kind": ("polynomial", "fourier", "neural", "polynomial+fourier", "neural+fourier"),
    "library.degree": ("auto", "0", "1", "2", "6", "10"),
    "library.interactions": ("true", "false"),
    "library.frequencies": ("1", "3", "100"),
    "library.operators": ("[identity]", "[mul]", "[identity, sin, cos, mul, add]", "[nothing]"),
    "library.nested": ("[]", "[mul]", "[sin]", "[add]"),
    "library.weights": ("shipped", "config.yaml", "nothing", "/"),
    "library.modes": ("auto", "1", "2", "9" * 30),
    "library.max_terms": ("1", "2", "300", "9" * 30),
    "sparse_regression.threshold": ("auto", "0", "0.5", "1e300", "1e-300"),
    "sparse_regression.ridge": ("0", "1e-8", "1e300", "1e-300"),
    "sparse_regression.max_iterations": ("1", "20", "9" * 30),
    "cluster.workers": ("1", "3", "9" * 9),
}
SYMBOLIC = ("'a1*sin(a2)'", "'exp(-a1**2)'", "'exp(a1)'", "'a1**9'", "'a9'", "'1/a1'",
            "'tanh(a1)'", "'(((a1**8)**8)**8)**8'", "'exp(exp(exp(a1)))'", "'log(a1)'", "'a1*0'",
            "'7'")  # fmt: skip


@cache
def source() -> xr.Dataset:
    t, x = np.arange(40)[:, None], np.linspace(0, 6, 10)
    wave = np.sin(x - 0.3 * t) + 0.2 * np.cos(3 * x + 0.1 * t)
    coords = {"time": np.arange(40.0), "x": x}
    return xr.Dataset({"u": (("time", "x"), wave)}, coords)


@cache
def archive() -> Path:
    path = Path(tempfile.mkdtemp()) / "a.nc"
    source().to_netcdf(path, engine="scipy")
    return path


def value(chance: random.Random) -> str:
    if chance.random() < 0.7:
        return chance.choice(VALUES)
    return json.dumps(chance.choice(EXTREMES)) if chance.random() < 0.9 else repr(chance.random())


def misspelt(name: str, chance: random.Random) -> str:
    place = chance.randrange(len(name))
    return chance.choice(
        (name[:place] + name[place + 1 :], name.upper(), f" {name}", name + "\x00")
    )


def made(chance: random.Random) -> str:
    """Sections of known keys, some of them misspelt, with any values."""
    sections: dict[str, list[str]] = {}
    for key in chance.choices(KNOWN_KEYS, k=chance.choice((1, 1, 2, 4))):
        section, name = key.split(".")
        if chance.random() < 0.05:
            section = misspelt(section, chance)
        if chance.random() < 0.05:
            name = misspelt(name, chance)
        sections.setdefault(section, []).append(f"  {name}: {value(chance)}")
    return "\n".join(f"{name}:\n" + "\n".join(lines) for name, lines in sections.items()) + "\n"


def allowed(chance: random.Random) -> str:
    """Sections in which every value is allowed by itself."""
    chosen = {key: chance.choice(ALLOWED[key]) for key in chance.sample(sorted(ALLOWED), k=4)}
    if chance.random() < 0.3:
        expressions = chance.sample(SYMBOLIC, k=chance.choice((1, 2, 4)))
        chosen |= {
            "library.kind": chance.choice(("symbolic", "polynomial+symbolic")),
            "library.expressions": f"[{', '.join(expressions)}]",
        }
    sections: dict[str, list[str]] = {}
    for key, each in chosen.items():
        section, name = key.split(".")
        sections.setdefault(section, []).append(f"{name}: {each}")
    return "".join(f"{name}: {{{', '.join(lines)}}}\n" for name, lines in sections.items())


def changed(text: str, chance: random.Random) -> str:
    """A text with a value replaced, or lines or characters changed."""
    lines = text.splitlines()
    for _ in range(chance.choice((1, 1, 2, 5))):
        number = chance.randrange(len(lines))
        line, choice = lines[number], chance.random()
        place = chance.randrange(len(line) + 1)
        if choice < 0.4 and ":" in line:
            lines[number] = f"{line.partition(':')[0]}: {value(chance)}"
        elif choice < 0.5:
            lines[number] = line[:place] + value(chance) + line[place:]
        elif choice < 0.6:
            lines[number] = line[:place] + line[place + 1 :]
        elif choice < 0.7:
            lines.insert(number, chance.choice(lines))
        elif choice < 0.8:
            lines[number] = chance.choice((" ", "\t", "")) + line.lstrip()
        else:
            lines[number] = line.replace(
                *chance.choice(((":", ""), ("{", "["), ("}", ""), ("'", '"')))
            )
    return "\n".join(lines) + "\n"


def bombs(chance: random.Random) -> str:
    """Texts that grow, or go deep, in whoever reads them."""
    size = chance.choice((10, 1000, 20_000))
    return chance.choice((
        "a: &a [x, x]\n" + "".join(f"b{k}: &b{k} [*a, *a]\n" for k in range(size)),
        "library: " + "{a: " * size, "[" * size, "- " * size, "? " * size, "a:\n" * size,
        "library:\n  expressions: [" + "'a1', " * size + "]",
        "compression: {max_error: {" + "".join(f"u{k}: 1, " for k in range(size)) + "}}",
        "x: &x\n  <<: *x\n", "&a a: *a\n", "!!seq " * size, '"' + "\\" * size,
    ))  # fmt: skip


def text(chance: random.Random) -> bytes:
    choice = chance.random()
    if choice < 0.25:
        found = allowed(chance)
    elif choice < 0.5:
        found = made(chance)
    elif choice < 0.75:
        # Comments say much, and mean nothing.
        documented = [x for x in DOCUMENTED.read_text().splitlines() if "#" not in x and x]
        found = changed(chance.choice((*SMALL, *SMALL, "\n".join(documented))), chance)
    elif choice < 0.85:
        found = bombs(chance)
    else:
        found = chance.choice(SMALL)
    content = found.encode(chance.choice(("utf-8",) * 6 + ("utf-16", "utf-8-sig")), "surrogatepass")
    if choice >= 0.85:
        place = chance.randrange(len(content))
        return content[:place] + chance.randbytes(chance.choice((1, 2, 9))) + content[place + 1 :]
    return content


def run_case(seed: int) -> str:
    """ "refused: read", "refused: used" or "ok" of settings made from `seed`."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        # What the text names is looked for here.
        patch.chdir(folder)
        file, store = folder / "config.yaml", folder / "s"
        file.write_bytes(text(chance))
        before = names_below(folder)
        archive()
        with within_limits():
            read, config = called(lambda: load_config(file))
            fine = _used(file, config, store, chance) if read else _refused(file, store)
        assert fine == store.exists()
        left = {path.partition("/")[0] for path in names_below(folder) - before} - {"s"}
        assert not left, f"left behind: {left}"
    return "ok" if fine else f"refused: {'used' if read else 'read'}"


def _refused(file: Path, store: Path) -> bool:
    assert commanded("compress", archive(), store, "--config", file) == 2
    return False


def _used(file: Path, config: Any, store: Path, chance: random.Random) -> bool:
    if chance.random() < 0.5:
        return called(lambda: romzarr.compress(source(), store, config=config))[0]
    # Other clusters are none of these cases' business.
    elsewhere = [] if config.cluster.kind == "threads" else ["--cluster", "threads"]
    return commanded("compress", archive(), store, "--config", file, *elsewhere) == 0
