"""The command line: flags become settings, failures become statuses, streams stay apart."""

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.config import Config, load_config
from romzarr.contracts import FurtherMeasure
from romzarr.errors import ChunkError, StoreExistsError
from romzarr.reports import CompressionReport, VerifyReport
from romzarr_flows.cli import main

REPORT = CompressionReport(
    relative_l2_error={"u": 9.5e-3},
    tolerance=1e-2,
    rank=4,
    nonzero_terms=12,
    kept_samples=20,
    snapshots=200,
    raw_bytes=10**6,
    stored_bytes=10**5,
    compression_ratio=10.0,
    seconds=1.5,
    cpu_seconds=1.25,
    bytes_read=900_000,
    chunks_read=10,
    advice="",
)


@dataclass
class Operations:
    """Stand-ins for the operations: they remember their arguments and return a report."""

    monkeypatch: pytest.MonkeyPatch

    def replace(self, name, result):
        calls = []

        def operation(*arguments, **keywords):
            calls.append((arguments, keywords))
            if isinstance(result, BaseException):
                raise result
            return result

        self.monkeypatch.setattr(romzarr, name, operation, raising=False)
        return calls


@pytest.fixture
def operations(monkeypatch):
    return Operations(monkeypatch)


def test_flags_win_over_the_file_and_the_file_over_the_defaults(operations, tmp_path):
    calls = operations.replace("compress", REPORT)
    path = tmp_path / "config.yaml"
    path.write_text("compression: {tolerance: 0.5, max_rank: 9}\nlibrary: {degree: 3}\n")
    flags = ["--tolerance", "1e-3", "--variables", "u,v", "--weights", "area", "--time", "t"]
    assert main(["compress", "a.zarr", "b.romzarr", "--config", str(path), *flags]) == 0
    expected = load_config(
        None,
        {
            "compression.tolerance": 1e-3,
            "compression.max_rank": 9,
            "library.degree": 3,
            "archive.variables": ["u", "v"],
            "archive.weights": "area",
            "archive.time": "t",
        },
    )
    assert calls == [(("a.zarr", "b.romzarr"), {"config": expected, "overwrite": False})]


def test_another_kind_of_cluster_takes_none_of_the_settings_of_the_files(operations, tmp_path):
    calls = operations.replace("compress", REPORT)
    path = tmp_path / "config.yaml"
    path.write_text("cluster: {kind: slurm, workers: 2, memory_limit: 1 GB, queue: night}\n")
    assert main(["compress", "a", "b", "--config", str(path), "--cluster", "threads"]) == 0
    assert calls[0][1]["config"] == Config()


@pytest.mark.parametrize("text", ["auto", "7"])
def test_the_largest_rank_may_be_automatic(operations, text):
    calls = operations.replace("compress", REPORT)
    assert main(["compress", "a", "b", "--max-rank", text, "--overwrite"]) == 0
    config = calls[0][1]["config"]
    assert str(config.compression.max_rank) == text
    assert calls[0][1]["overwrite"]


def test_without_flags_the_defaults_hold(operations):
    calls = operations.replace("compress", REPORT)
    main(["compress", "a", "b"])
    assert calls[0][1]["config"] == Config()


def test_json_is_all_there_is_on_standard_output(operations, capsys):
    operations.replace("compress", REPORT)
    assert main(["compress", "a", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == REPORT.to_dict()


def test_the_table_says_what_was_asked_and_what_was_reached(operations, capsys):
    operations.replace("compress", REPORT)
    main(["compress", "a.zarr", "b.romzarr"])
    words = capsys.readouterr().out.split()
    assert {"9.500e-03", "0.01", "4", "12", "1.0", "100.0", "10"} <= set(words)
    assert "ABOVE" not in words


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_broken_bound_is_a_status_and_is_said(operations, capsys, ok, status, flags):
    error = 9e-3 if ok else 2e-2
    problems = () if ok else ("u is above the tolerance",)
    operations.replace(
        "verify",
        VerifyReport(ok, {"u": error}, {"u": 0.1}, 1e-2, "u at 3", problems, 0.5),
    )
    assert main(["verify", "b.romzarr", "a.zarr", *flags]) == status
    out = capsys.readouterr().out
    assert json.loads(out)["ok"] is ok if flags else ("BREAKS ITS BOUND" in out) is not ok


def test_verify_shows_levels_warnings_and_measures(tmp_path, capsys):
    rng = np.random.default_rng(0)
    u = rng.standard_normal((30, 2, 20, 20)) * np.array([1.0, 1e-3])[:, None, None]
    made = xr.Dataset({"u": (("time", "lev", "y", "x"), u)}, {"lev": [5.0, 900.0]})
    made.to_zarr(tmp_path / "a.zarr", consolidated=False)
    whole = {"compression.per": "none"}
    romzarr.compress(made, tmp_path / "s", tolerance=0.05, config=whole)
    command = ["verify", str(tmp_path / "s"), str(tmp_path / "a.zarr")]
    assert main([*command, "--measures", "bias,ssim", "--per", "y"]) == 0
    out = capsys.readouterr().out
    assert "of the fluctuation on each lev, most at lev=1 (900.0)" in out
    assert "of the fluctuation on each y, most at y=" in out
    assert "warning            variable 'u': the error at lev=1 (900.0) is" in out
    assert "on average, at least" in out
    assert "gradient" not in out
    assert main(command) == 0
    plain = capsys.readouterr().out
    assert "error by index     u: " in plain
    assert "bias" not in plain
    assert main([*command, "--measures", "all", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["measures"]["u"]) == set(FurtherMeasure)
    assert facts["by_index"]["u"]["lev"]["worst"] == 1
    assert facts["warnings"] == facts["by_index"]["u"]["lev"]["warnings"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["verify", "s", "a", "--measures", "bais"], "found 'bais', allowed are bias, correlation"),
        (["report", "s", "-o", "p.html", "--measures", "all"], "found no --source SOURCE"),
    ],
)
def test_wrong_measures_are_told_before_anything_is_computed(capsys, flags, words):
    try:
        status = main(flags)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        (ChunkError("chunk c/3/0 of u is missing"), 1, "chunk c/3/0 of u is missing"),
        (StoreExistsError("b exists; --overwrite"), 1, "b exists"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError("too much"), 1, "MemoryError: too much"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_is_one_line_on_standard_error(operations, capsys, failure, status, words):
    operations.replace("compress", failure)
    assert main(["compress", "a", "b", "--json"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("romzarr: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_a_defect_of_the_program_is_not_hidden(operations):
    operations.replace("compress", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["compress", "a", "b"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compress", "a", "b", "--tolerance", "2"], "compression.tolerance: found 2.0, allowed"),
        (["compress", "a", "b", "--cluster", "pbs"], "cluster.kind: found 'pbs', allowed"),
        (["compress", "a", "b", "--cluster", "slurm"], "cluster.memory_limit: kind 'slurm' needs"),
        (["compress", "a", "b", "--config", "absent.yaml"], "absent.yaml: cannot be read"),
    ],
)
def test_wrong_settings_have_their_own_status(operations, capsys, arguments, words):
    calls = operations.replace("compress", REPORT)
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize("arguments", [[], ["squeeze"], ["compress", "a"], ["info"]])
def test_wrong_usage_has_the_same_status(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "command", ["", "compress", "info", "verify", "reconstruct", "equations", "demo"]
)
def test_help_fits_a_terminal_and_tells_the_exit_status(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    if not command:
        assert "exit status" in out


def test_help_does_not_wait_for_dask():
    script = (
        "import sys, romzarr_flows.cli\n"
        "try: romzarr_flows.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'dask', 'distributed', 'xarray', 'zarr', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_not_an_error():
    script = "import sys\nfrom romzarr_flows.cli import main\nsys.exit(main(['info', 'b']))"
    fake = (
        "import romzarr\n"
        "class R:\n"
        "    def to_dict(self): return {str(i): 'x' * 99 for i in range(9999)}\n"
        "romzarr.info = lambda store: R()\n"
    ) + script.replace("'b'", "'b', '--json'")
    writer = subprocess.Popen(
        [sys.executable, "-c", fake], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    writer.wait()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["compres", "a", "b"], "did you mean 'compress'?"),
        (["compress", "a", "b", "--toler", "1e-2"], "unrecognized arguments: --toler"),
        (["compress", "a", "b", "--log-format", "jsn"], "did you mean 'json'?"),
    ],
)
def test_misspelt_words_are_refused_and_the_nearest_is_named(given, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
