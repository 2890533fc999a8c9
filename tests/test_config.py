"""config.yaml and the dataclasses say the same, and a wrong setting is named where it stands."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.config import (
    KNOWN_KEYS,
    CompressionConfig,
    Config,
    ConfigError,
    LibraryConfig,
    load_config,
    unknown,
)

DOCUMENTED = Path(__file__).parents[1] / "config.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_documented_file_is_exactly_the_defaults():
    assert load_config(DOCUMENTED) == Config() == load_config()


def test_the_documented_file_has_every_key_with_a_comment_above_it():
    lines = DOCUMENTED.read_text().splitlines()
    found = []
    for above, line in pairwise(lines):
        if match := re.match(r"^([a-z_]+):$", line):
            section = match[1]
        elif match := re.match(r"^  ([a-z_]+):", line):
            found.append(f"{section}.{match[1]}")
            assert above.startswith("  #"), f"{found[-1]} is not documented"
    assert tuple(found) == KNOWN_KEYS


@settings(deadline=None, max_examples=30)
@given(
    tolerance=st.floats(1e-12, 1, exclude_max=True),
    rank=st.one_of(st.just("auto"), st.integers(1, 10**6)),
    max_error=st.one_of(
        st.just("none"),
        st.dictionaries(st.text("uvNO01", min_size=1), st.floats(1e-300, 1e300), min_size=1),
    ),
    ridge=st.floats(0, 1e6),
    variables=st.one_of(
        st.just("all"), st.lists(st.text("uvNO01", min_size=1), min_size=1, unique=True)
    ),
)
def test_settings_survive_the_round_trip_through_json_and_yaml(
    tmp_path_factory, tolerance, max_error, rank, ridge, variables
):
    config = load_config(
        overrides={
            "compression.tolerance": tolerance,
            "compression.max_error": max_error,
            "compression.max_rank": rank,
            "sparse_regression.ridge": ridge,
            "archive.variables": variables,
        }
    )
    stored = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    # JSON is YAML: what a store remembers can be given back as a file.
    path = write(tmp_path_factory.mktemp("round"), json.dumps(stored))
    assert load_config(path) == config


def test_overrides_win_over_the_file(tmp_path):
    path = write(tmp_path, "compression:\n  tolerance: 1e-3\n  max_rank: 7\n")
    config = load_config(path, {"compression.tolerance": 1e-5})
    assert config.compression == CompressionConfig(tolerance=1e-5, max_rank=7)


def test_numbers_and_names_are_read_as_people_write_them(tmp_path):
    # YAML 1.1 reads 1e-2 as text and NO (nitric oxide) as false.
    path = write(tmp_path, "compression: {tolerance: 5e-4}\narchive: {variables: [NO, y, 'off']}\n")
    config = load_config(path)
    assert config.compression.tolerance == 5e-4
    assert config.archive.variables == ("NO", "y", "off")


def test_an_empty_section_keeps_its_defaults(tmp_path):
    assert load_config(write(tmp_path, "archive:\nlibrary: {}\n")) == Config()
    assert load_config(write(tmp_path, "")) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "compression: {tolerence: 0.1}",
            "line 1: unknown key 'compression.tolerence'; .*'compression.tolerance'",
        ),
        ("tolerance: 0.1", "unknown key 'tolerance'; .*'compression.tolerance'"),
        (
            "library:\n  tolerance: 0.1",
            "line 2: unknown key 'library.tolerance'; .*'compression.tolerance'",
        ),
        ("cluster: {workers: 2, workers: 3}", "line 1: key 'workers' is already given on line 1"),
        ("cluster: {workers: 2}\ncluster: {}", "line 2: key 'cluster' is already given on line 1"),
        ("compression: 3", "section 'compression' must hold lines 'key: value'"),
        ("- a\n- b", "the file must hold lines"),
        ("compression: {tolerance: [}", "not a YAML file"),
        ("compression: {tolerance: !!python/name:os.system }", "not a YAML file"),
        (
            "compression: {tolerance: 1.5}",
            "tolerance: found 1.5, allowed is 0, .*a number above 0 and below 1 or none; it bounds",
        ),
        ("compression: {tolerance: -1}", "found -1, allowed"),
        ("compression: {max_error: 0.1}", "found 0.1, allowed is 'none' or a share"),
        ("compression: {max_error: {u: 0}}", "found {'u': 0}, allowed is"),
        ("compression: {max_error: {u: big}}", "found {'u': 'big'}, allowed is"),
        ("compression: {max_error: {u: .inf}}", "found {'u': inf}, allowed is"),
        ("compression: {max_error: {u: true}}", "found {'u': True}, allowed is"),
        ("compression: {max_error: {3: 0.1}}", "found {3: 0.1}, allowed is"),
        ("compression: {max_error: {}}", "found {}, allowed is"),
        ("compression: {tolerance: .nan}", "found nan, allowed"),
        ("compression: {tolerance: '1e-2'}", "found '1e-2', allowed"),
        ("compression: {tolerance: true}", "found True, allowed"),
        ("compression: {max_rank: 0}", "found 0, allowed is 'auto' or an integer, 1 or more"),
        ("compression: {max_rank: null}", "found None, allowed is 'auto'"),
        ("archive: {variables: u}", "found 'u', allowed is 'all' or a list"),
        ("archive: {variables: []}", "found \\[\\], allowed"),
        ("archive: {variables: [u, u]}", "a list of different variable names"),
        (
            "library: {kind: polynomial+wavelet}",
            "found 'polynomial\\+wavelet', allowed is 'polynomial'",
        ),
        ("library: {interactions: 1}", "allowed is true or false"),
        (
            "cluster: {kind: pbs}",
            "found 'pbs', allowed is 'threads' or 'local' or .* address",
        ),
        ("cluster: {queue: main}", "queue: found 'main' with kind 'threads', which takes workers;"),
        ("cluster: {kind: 'tcp://a:1', workers: 2}", "which takes tls; remove it"),
        ("cluster: {kind: local, image: a}", "cluster.kind to what takes it \\(kubernetes\\)"),
        ("cluster: {kind: slurm, workers: 2}", "memory_limit: kind 'slurm' needs it, found 'auto'"),
        ("cluster: {kind: gateway, workers: 2}", "gateway: kind 'gateway' needs it, found 'none'"),
        ("cluster: {kind: slurm, memory_limit: 1 GB}", "workers: kind 'slurm' needs a number, or"),
        ("cluster: {kind: local, minimum: 2}", "minimum: found 2 without cluster.maximum; set"),
        ("cluster: {kind: local, workers: 2, maximum: 3}", "workers: found 2 with cluster.maximum"),
        ("cluster: {kind: local, minimum: 4, maximum: 3}", "found 4, allowed are 1 to .* \\(3\\)"),
        ("cluster: {kind: slurm, walltime: 1 h}", "allowed is hours such as '01:30:00'"),
        ("cluster: {kind: gateway, options: {cores: [2]}}", "allowed is 'none' or a mapping of"),
        ("cluster: {memory_limit: 4}", "allowed is 'auto' or a size such as '4 GB'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_wrong_override_is_not_blamed_on_the_file(tmp_path):
    path = write(tmp_path, "compression: {tolerance: 0.1}")
    with pytest.raises(ConfigError, match=r"^compression\.tolerance: found 2\.0") as caught:
        load_config(path, {"compression.tolerance": 2.0})
    assert str(path) not in str(caught.value)


def test_sections_made_in_python_are_checked_too():
    with pytest.raises(ConfigError, match=r"compression\.tolerance: found 1"):
        CompressionConfig(tolerance=1)
    with pytest.raises(ConfigError, match="give expressions exactly when"):
        LibraryConfig(expressions=("sin(a1)",))
    assert LibraryConfig(kind="fourier+symbolic", expressions=["sin(a1)"]).expressions == (
        "sin(a1)",
    )


def test_the_default_loader_would_have_read_something_else():
    # Why the loader is our own; fails the day PyYAML speaks YAML 1.2.
    assert yaml.safe_load("1e-2") == "1e-2"
    assert yaml.safe_load("NO") is False


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("compresion", "the nearest section is 'compression'"),
        ("tolerence", "the nearest known key is 'compression.tolerance'"),
        ("compression.tolerence", "the nearest known key is 'compression.tolerance'"),
    ],
)
def test_the_nearest_name_of_an_unknown_key_is_told(given, nearest):
    assert nearest in unknown(given)
