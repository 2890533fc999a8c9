"""A line an event, for people or machines, with dataset, stage, bytes and seconds; no secrets."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from romzarr.progress import step, working_on
from romzarr_flows.cli import main
from romzarr_flows.logs import logging_to_stderr, without_secrets


@pytest.fixture
def source(tmp_path):
    x = np.sin(np.linspace(0, 9, 40)[:, None] + np.arange(6))
    path = tmp_path / "waves.zarr"
    xr.Dataset({"u": (("time", "x"), x)}, {"time": np.arange(40.0)}).to_zarr(
        path, consolidated=False
    )
    return path


def test_every_step_is_a_line_with_its_facts(source, tmp_path, capsys):
    assert main(["compress", str(source), str(tmp_path / "s"), "--log-format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    steps = {line["stage"]: line for line in lines if "stage" in line}
    assert list(steps) == ["open", "read", "allocate", "model", "write", "commit"]
    assert {line["dataset"] for line in steps.values()} == {str(source)}
    assert all(line["seconds"] >= 0 for line in steps.values())
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert steps["open"]["bytes"] == 40 * 6 * 8
    assert main(["verify", str(tmp_path / "s"), str(source)]) == 0
    assert f"{source}: verify: 1.9 kB, " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compress a b", "info a", "neural diagnose a", "nightly"])
def test_every_command_can_log_as_json_also_why_it_ends(command, capsys):
    assert main([*command.split(), "--log-format", "json"]) != 0
    error = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (error["level"], error["logger"]) == ("error", "romzarr")


def test_a_step_that_fails_is_left_to_its_error(caplog):
    with caplog.at_level(logging.INFO), pytest.raises(KeyError), step("read"):
        raise KeyError
    assert not caplog.records


def test_the_outermost_name_of_a_dataset_counts(capsys):
    with logging_to_stderr(), working_on("night/run.zarr"), working_on("/mnt/x/night/run.zarr"):
        logging.getLogger("romzarr.coding").info("50 %% of %s", "it")
    assert capsys.readouterr().err.split(maxsplit=2)[2] == "night/run.zarr: 50 % of it\n"


@pytest.mark.parametrize("kind", ["text", "json"])
def test_secrets_of_the_environment_are_in_no_line(monkeypatch, capsys, kind):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-canary")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "t0k3n-canary")
    with logging_to_stderr(kind):
        log = logging.getLogger("romzarr_flows")
        log.warning("refused: %s", {"Authorization": "t0k3n-canary"})
        try:
            raise OSError("https://me:pa55@host/x?sig=s3cr3t-canary")
        except OSError:
            log.exception("of a package")
    err = capsys.readouterr().err
    assert not any(word in err for word in ("s3cr3t-canary", "t0k3n-canary", "pa55"))
    assert err.count("[hidden]") >= 3


def test_others_are_heard_when_they_warn(capsys):
    """A scheduler in this process tells of every worker that comes and goes."""
    with logging_to_stderr():
        logging.getLogger("distributed.scheduler").setLevel(logging.INFO)
        logging.getLogger("distributed.scheduler").info("Register worker addr")
        logging.getLogger("distributed.scheduler").warning("Worker failed to heartbeat")
    err = capsys.readouterr().err
    assert "heartbeat" in err
    assert "Register" not in err


def test_short_values_are_no_secrets(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    assert without_secrets("a path") == "a path"


ANNOUNCED = """
import logging, sys
from distributed import Client, LocalCluster
from romzarr_flows.clusters import Workers
from romzarr_flows.progress import log_workers
if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("distributed").setLevel(logging.WARNING)
    options = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": sys.argv[1] == "True"}}
    with (
        LocalCluster(n_workers=1, processes=False, **options) as cluster,
        Client(cluster) as client,
    ):
        log_workers(Workers("1 worker", client))
        print(client.dashboard_link)
"""


@pytest.mark.parametrize("dashboard", [False, True])
def test_the_dashboard_is_announced_where_there_is_one(dashboard):
    # In a process of its own: schedulers with dashboards leave their pages to later ones.
    done = subprocess.run(
        [sys.executable, "-c", ANNOUNCED, str(dashboard)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, link = [line for line in done.stdout.splitlines() if "worker" in line or "http" in line]
    assert said == (f"1 worker, dashboard: {link}" if dashboard else "1 worker")
