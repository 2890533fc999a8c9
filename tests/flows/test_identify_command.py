"""`romzarr identify`: from a CSV file to printed equations, in the user's own names."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from romzarr_flows.cli import main
from tests.systems_of_odes import LORENZ, LOTKA_VOLTERRA, VAN_DER_POL, KnownSystem, with_noise

TRUE_TERMS = {
    "Lorenz": [{"x", "y"}, {"x", "y", "x*z"}, {"z", "x*y"}],
    "Van der Pol": [{"y"}, {"x", "y", "x^2*y"}],
    "Lotka-Volterra": [{"x", "x*y"}, {"y", "x*y"}],
}


def printed(text: str) -> list[set[str]]:
    """The terms of each equation."""
    equations = re.findall(r"^d\w+/dt = (.*)$", text, re.MULTILINE)
    return [set(re.findall(r"\) ([^ ]+)", equation)) for equation in equations]


def as_rows(folder, system: KnownSystem, level: float) -> str:
    _, states = system.record(1500)
    path = folder / "rows.csv"
    np.savetxt(path, (with_noise(states, level, 0) if level else states).T, delimiter=",")
    return str(path)


@pytest.mark.parametrize("level", [0.0, 0.02])
@pytest.mark.parametrize("system", [LORENZ, VAN_DER_POL, LOTKA_VOLTERRA], ids=lambda s: s.name)
def test_rows_of_a_table_give_the_true_terms(system, level, tmp_path, capsys):
    names = ",".join("xyz"[: system.states])
    path = as_rows(tmp_path, system, level)
    assert main(["identify", path, "--names", names, "--dt", str(system.step)]) == 0
    assert printed(capsys.readouterr().out) == TRUE_TERMS[system.name]


def test_columns_with_names_need_no_flags(tmp_path, capsys):
    times, states = LOTKA_VOLTERRA.record(400, step=0.05)
    path = tmp_path / "hares.csv"
    columns = np.column_stack([times, with_noise(states, 0.01, 0)])
    np.savetxt(path, columns, delimiter=",", header="year,hares,lynxes", comments="")
    assert main(["identify", str(path)]) == 0
    out = capsys.readouterr().out
    assert printed(out) == [{"hares", "hares*lynxes"}, {"lynxes", "hares*lynxes"}]
    assert out.count("can be trusted") == 2
    assert main(["identify", str(path), "--json", "--degree", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (growth,) = [t for t in facts["equations"][0]["terms"] if t["term"] == "hares"]
    assert abs(growth["coefficient"] - 1) < 5 * growth["standard_error"]
    assert growth["probability"] > 0.99


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--names", "a"], "one different name"),
        (["--dt", "-1"], "times have to increase"),
        (["--degree", "40"], "library.degree"),
    ],
)
def test_what_cannot_be_used_is_one_line(flags, words, tmp_path, capsys):
    path = as_rows(tmp_path, VAN_DER_POL, 0.0)
    assert main(["identify", path, *flags]) != 0
    assert words in capsys.readouterr().err
