"""What strangers send: settings, tables, names and URLs that are made to break their readers."""

import contextlib
import io

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.archive.csv_table import read_csv
from romzarr.archive.location import normalised, redacted
from romzarr.config import load_config
from romzarr.errors import (
    ArchiveError,
    ConfigError,
    PipelineError,
    ResourceError,
    TooFineError,
    refuse_blame,
)
from romzarr.store.reading.reader import open_store
from romzarr_flows.logs import complain, without_secrets
from romzarr_flows.tables import table
from romzarr_flows.terminal import escaped, show

STEERING = ["\x1b[2J", "\x07", "\u202e", "\u2066", "\r", "\n", "\x9b1m", "\ud800", "\u2028"]


@pytest.mark.parametrize("mark", STEERING)
def test_nothing_that_steers_a_terminal_reaches_it(mark, capsys):
    name = f"u{mark}v"
    assert mark not in escaped(name)
    assert mark not in table("t", [(name, name)]).replace("\n  ", "")
    complain(f"variable {name}: is damaged")
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    show(f"{name} \N{SNOWFLAKE}", stream)
    if mark != "\n":
        assert mark not in capsys.readouterr().err


def test_letters_of_any_script_are_shown_as_they_are():
    assert escaped("température Å 温度") == "température Å 温度"


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "library:\n  operators: " + "[" * 3000 + "]" * 3000,
     "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
     "compression:\n  tolerance: !!timestamp 2020-99-99\n",
     "compression:\n  tolerance: " + "9" * 6000 + "\n",
     "compression:\n  tolerance: !!python/object:os.system x\n",
     "? [a]\n: b\n", "? {a: b}\n: c\n", "\x00", "a" * (1 << 21), "compression: !!set {a, b}"],
)  # fmt: skip
def test_settings_that_hurt_parsers_are_refused(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    ['u,1,2\n"v\nw",3,4\nx,"5\n",6\n', 'u,1,"2\n',
     "a,1_0,2\nb,3,4\n", "\x00,1,2\n", '"', "u,1e999,x",
     "time,2020-13-45\nu,1\n", "1,2\n3\n", "time\nu\n"],
)  # fmt: skip
def test_tables_are_read_or_refused(text, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with contextlib.suppress(ArchiveError):
        read_csv(str(path))


def test_a_quoted_cell_may_span_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('time,0,1\n"u\nv",3,4\n')
    (name,) = read_csv(str(path)).data_vars
    assert name.split() == ["u", "v"]


@pytest.mark.parametrize("name", ["..", "zarr.json", "a/b", "", "\ud800", "x" * 300])
def test_names_that_are_paths_are_refused(name, tmp_path):
    values = np.random.default_rng(0).standard_normal((40, 3))
    data = xr.Dataset({name: (("time", "x"), values)}, {"time": np.arange(40.0)})
    with pytest.raises(ArchiveError, match="rename it"):
        romzarr.compress(data, tmp_path / "s")


def test_a_bound_that_is_too_fine_names_the_variable(tmp_path):
    wave = np.sin(np.arange(40)[:, None] * 0.1 + np.linspace(0, 6, 20))
    wave[3, 4] = 1e25
    data = xr.Dataset({"u": (("time", "x"), wave)}, {"time": np.arange(40.0)})
    with pytest.raises(PipelineError, match=r"variables? 'u'"):
        romzarr.compress(data, tmp_path / "s", max_error={"u": 1e-3})
    assert issubclass(TooFineError, ValueError)


def test_paths_and_secrets_stay_out_of_a_store(tmp_path):
    folder = tmp_path / "jane.doe" / "secret-project"
    wave = np.sin(np.arange(40)[:, None] * 0.1 + np.linspace(0, 6, 20))
    xr.Dataset({"u": (("time", "x"), wave)}, {"time": np.arange(40.0)}).to_zarr(
        folder / "a.zarr", consolidated=False
    )
    romzarr.compress(folder / "a.zarr", tmp_path / "s")
    held = b"".join(f.read_bytes() for f in (tmp_path / "s").rglob("*") if f.is_file())
    assert b"jane.doe" not in held
    assert b"secret-project" not in held
    assert romzarr.info(tmp_path / "s").source["name"] == "a.zarr"

    config = load_config(overrides={"archive.record_path": True})
    romzarr.compress(folder / "a.zarr", tmp_path / "t", config=config)
    assert romzarr.info(tmp_path / "t").source["path"] == str(folder / "a.zarr")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("simplecache::https://me:hunter2@host/a.nc?sig=abc", "simplecache::https://host/a.nc"),
        ("zip://a.csv::s3://me:hunter2@bucket/a.zip?token=x", "zip://a.csv::s3://bucket/a.zip"),
        ("http://[::1]:9000/x?sig=abc", "http://[::1]:9000/x"),
        ("https://[::1/x?sig=abc", "https://...::1/x"),
    ],
)
def test_secrets_in_chained_urls_are_not_shown(url, shown):
    assert redacted(url) == shown
    with pytest.raises(ArchiveError) as raised:
        normalised(url)
    assert "hunter2" not in str(raised.value)
    assert "abc" not in str(raised.value)
    assert "abc" not in without_secrets(f"{url}: failed")


def test_a_system_without_threads_is_not_taken_for_damage():
    with pytest.raises(ResourceError, match="refuses to start a thread"):
        refuse_blame(RuntimeError("can't start new thread"))
    refuse_blame(RuntimeError("something else"))


@pytest.mark.parametrize("place", [None, 7, "", b"x", object(), "nothing/there"])
def test_what_is_no_store_is_an_error_of_ours_or_of_its_type(place):
    with pytest.raises((PipelineError, TypeError)):
        open_store(place)
