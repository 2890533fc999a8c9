"""Pages that open offline: nothing is fetched, every kind of store has one, equations are right."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import cftime
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

pytest.importorskip("matplotlib", reason="romzarr[plot] is not installed")

import romzarr
from romzarr.numerics.dynamics.library import library_from_spec
from romzarr.operations.describe import Equations, Regime
from romzarr_flows.cli import main
from romzarr_flows.nightly.catalogue import Entry
from romzarr_flows.nightly.status import DatasetState
from romzarr_flows.report.catalogue import LOOKS, STATES
from romzarr_flows.report.maps import fitting, limits
from romzarr_flows.report.mathml import term, typeset
from romzarr_flows.report.page import digest, rendered

HOSTILE = "<script>alert('x')</script><img src=http://example.org/x.png>&$x_1$"
FETCHING = {"src", "href", "xlink:href", "data", "poster", "action", "srcset", "background"}
VOID = {"meta", "br", "link", "img", "input", "hr", "base"}


class Page(HTMLParser):
    """What a browser would have to know of a page: what it fetches, ids, links, open elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.within: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            value = value or ""
            assert not name.startswith("on"), f"{tag} has a handler {name}"
            if name == "id":
                self.ids.append(value)
            if name in FETCHING and tag != "a":
                where = self.references if value.startswith("#") else self.fetched
                where.append(value)
            self.references += re.findall(r"url\((#[^)]*)\)", value)
            self.fetched += [u for u in re.findall(r"url\(([^)]*)\)", value) if u[0] != "#"]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.fetched += re.findall(r"@import|url\((?!#)[^)]*\)", data)
        self.text += data


def checked(path, most=1_500_000, scripts=0) -> Page:
    """The page, once it is small, whole, fetches nothing, and runs just the scripts it names."""
    content = path.read_text(encoding="utf-8")
    assert len(content.encode()) < most
    page = Page(content)
    assert not page.open
    assert not page.tags & {"link", "iframe", "object", "embed", "base"}
    found = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    assert len(found) == scripts == content.count("<script")
    assert [f"'{digest(script)}'" for script in found] == re.findall("'sha256-.*?'", content)
    assert [url[:30] for url in page.fetched if not url.startswith("data:image/png")] == []
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert "Content-Security-Policy" in content
    return page


def wave(t, *shape, seed=0, noise=0.0):
    x = np.linspace(0, 6, int(np.prod(shape)))
    u = np.sin(x - t[:, None]) + 0.2 * np.cos(2 * x - 2 * t[:, None])
    u += noise * np.random.default_rng(seed).standard_normal(u.shape)
    return u.reshape(len(t), *shape).astype(np.float32)


T = np.arange(120) * 0.2
DAYS = [cftime.Datetime360Day(2000, 1 + k // 30, 1 + k % 30) for k in range(60)]
LAND = np.pad(np.full((4, 5), np.nan, np.float32), ((3, 5), (2, 11)))


def dataset(kind: str) -> tuple[xr.Dataset, dict[str, object]]:
    """A dataset of a kind, and how it is compressed."""
    time = ("time", T, {"units": "s"})
    match kind:
        case "masked map with residuals":
            lat, lon = np.linspace(-40, -30, 12), np.linspace(10, 30, 18)
            u = wave(T, 12, 18) + LAND
            ds = xr.Dataset({"u": (("time", "lat", "lon"), u, {"units": "m s-1"})})
            ds = ds.assign_coords(time=time, lat=lat, lon=lon)
            return ds, {"max_error": {"u": 0.01}}
        case "line of rank one":
            return xr.Dataset({"u": (("time", "x"), np.outer(np.sin(T), np.ones(40)))}), {}
        case "three dims, dates":
            u = wave(np.arange(60) * 0.3, 4, 6, 8)
            ds = xr.Dataset({"air temperature $x$": (("time", "lev", "y", "x"), u)})
            return ds.assign_coords(time=DAYS), {"tolerance": 1e-3}
        case "cells":
            n = 300
            lon, lat = np.random.default_rng(0).uniform(0, 60, (2, n))
            t2m = np.sin(lon / 9 - T[:, None]) * np.cos(lat / 20) + 280
            ds = xr.Dataset({"t2m": (("time", "cell"), t2m)})
            return ds.assign_coords(time=time, lon=("cell", lon), lat=("cell", lat)), {}
        case "sensors":
            series = {f"sensor {k}": ("time", np.sin(T + k) * 3 + k) for k in range(5)}
            return xr.Dataset(series, {"time": time}), {}
        case "lossless dates":
            ds = xr.Dataset({"u": (("time", "x"), np.round(wave(T[:30], 9), 1))})
            dates = np.datetime64("2020-01-01", "ns") + np.arange(30) * np.timedelta64(6, "h")
            return ds.assign_coords(time=dates), {"tolerance": 0}
        case "rough":
            rough = np.random.default_rng(1).standard_normal((50, 6, 40))
            return xr.Dataset({"u": (("time", "y", "x"), rough)}), {}
        case "constant":
            return xr.Dataset({"u": (("time", "x"), np.ones((20, 5)))}), {}
    raise AssertionError(kind)


KINDS = {
    "masked map with residuals": {"Modes", "Equations", "Coefficients in time", "0.01"},
    "line of rank one": {"Modes", "Coefficients in time"},
    "three dims, dates": {"Modes", "Equations", "lev = number 2 of 4"},
    "cells": {"Modes", "Equations"},
    "sensors": {"Modes", "Correlation of each variable with the leading coefficients."},
    "lossless dates": {"0, lossless", "All values equal those of the archive."},
    "rough": {"No modes: the variables are coded as values, without POD."},
    "constant": {"No modes: the variables are coded as constant, exact."},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_store_has_a_page_that_fetches_nothing(tmp_path, kind):
    ds, how = dataset(kind)
    ds.to_zarr(tmp_path / "run.zarr", consolidated=False)
    romzarr.compress(tmp_path / "run.zarr", tmp_path / "run", **how)
    source = ["--source", str(tmp_path / "run.zarr"), "--measures", "all"]
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "run"), "-o", str(out), *source]) == 0
    page = checked(out)
    for words in KINDS[kind]:
        assert words in page.text, words
    info = romzarr.info(tmp_path / "run")
    assert info.source["fingerprint"] in page.text
    assert list(tmp_path.glob(".*partial*")) == []
    if info.rank:
        assert "math" in page.tags or "A model would save no bytes" in page.text


def test_a_store_that_was_appended_to_has_a_page(tmp_path):
    ds = xr.Dataset({"u": (("time", "x"), wave(T, 60))}, {"time": T})
    romzarr.compress(ds.isel(time=slice(80)), tmp_path / "run", tolerance=1e-2)
    romzarr.append(tmp_path / "run", ds)
    ds.to_zarr(tmp_path / "run.zarr", consolidated=False)
    arguments = ["--source", str(tmp_path / "run.zarr"), "-o", str(tmp_path / "page.html")]
    assert main(["report", str(tmp_path / "run"), *arguments]) == 0
    assert "newest of 2 parts" in checked(tmp_path / "page.html").text


@pytest.mark.parametrize("chunk", [10, 80])
def test_an_archive_that_has_grown_since_is_compared_as_far_as_the_store_goes(tmp_path, chunk):
    ds = xr.Dataset({"u": (("time", "x"), wave(T, 60))}, {"time": T})
    romzarr.compress(ds.isel(time=slice(80)), tmp_path / "run", tolerance=1e-2)
    ds.chunk(time=chunk).to_zarr(tmp_path / "run.zarr", consolidated=False)
    arguments = ["--source", str(tmp_path / "run.zarr"), "-o", str(tmp_path / "page.html")]
    assert main(["report", str(tmp_path / "run"), *arguments]) == 0
    checked(tmp_path / "page.html")


def test_errors_by_block_are_drawn_where_they_are_known(tmp_path, monkeypatch):
    monkeypatch.setattr("romzarr.numerics.error_blocks.LEAST_VALUES", 64)
    known = xr.Dataset({"u": (("time", "x"), wave(T, 40, noise=0.1))})
    for name, tolerance in {"known": 1e-2, "exact": 0}.items():
        romzarr.compress(known, tmp_path / name, tolerance=tolerance)
        assert main(["report", str(tmp_path / name), "-o", str(tmp_path / f"{name}.html")]) == 0
    ids = checked(tmp_path / "known.html").ids
    assert any(each.startswith("blocks-") for each in ids)
    assert not any(each.startswith("blocks-") for each in checked(tmp_path / "exact.html").ids)


def test_names_from_a_store_are_text_and_without_a_source_nothing_is_measured(tmp_path):
    ds = xr.Dataset(
        {HOSTILE.replace("/", "|"): (("time", "x"), wave(T, 30), {"units": HOSTILE})},
        {"time": ("time", T, {"units": HOSTILE})},
        {"title": HOSTILE, "history": np.arange(3)},
    )
    romzarr.compress(ds, tmp_path / "run", tolerance=1e-2)
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0
    page = checked(tmp_path / "page.html")
    assert HOSTILE in page.text
    assert "Not measured against the archive" in page.text


# --- equations ----------------------------------------------------------------------------


def evaluate(element: ET.Element, a: np.ndarray) -> float:
    """Value of a MathML element: sums of products, powers, fractions, functions."""
    children = list(element)
    match element.tag:
        case "math" | "mrow":
            return evaluate_row(children, a)
        case "mn":
            return float(element.text)
        case "msub":
            return a[int(children[1].text) - 1]
        case "msubsup":
            return a[int(children[1].text) - 1] ** int(children[2].text)
        case "msup":
            return evaluate(children[0], a) ** evaluate(children[1], a)
        case "mfrac":
            return evaluate(children[0], a) / evaluate(children[1], a)
        case "msqrt":
            return np.sqrt(evaluate_row(children, a))
    raise AssertionError(element.tag)


def evaluate_row(children: list[ET.Element], a: np.ndarray) -> float:
    total, product, function = 0.0, None, None
    for child in [*children, ET.Element("end")]:
        if child.tag == "end" or (child.tag == "mo" and child.text in ("+", "\N{MINUS SIGN}")):
            total += product or 0.0
            product = -1.0 if child.text == "\N{MINUS SIGN}" else 1.0
        elif child.tag == "mi":
            function = getattr(np, child.text)
        elif child.tag != "mspace" and child.text not in ("(", ")", "·"):
            value = evaluate(child, a)
            value, function = (function(value) if function else value), None
            product = (1.0 if product is None else product) * value
    return total


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "polynomial", "states": 3, "degree": 3},
        {"kind": "fourier", "states": 2, "frequencies": [1.0, 2.5]},
        {
            "kind": "symbolic",
            "states": 2,
            "expressions": ["a1**2/(1 + a2**2)", "sqrt(a1)*tanh(a2)"],
        },
    ],
)
def test_mathml_of_equations_stands_for_the_model(spec):
    library, rng = library_from_spec(spec), np.random.default_rng(0)
    xi = np.where(rng.random((library.size, 2)) < 0.6, rng.standard_normal((library.size, 2)), 0)
    xi *= 10.0 ** rng.integers(-6, 4, xi.shape)
    regime = Regime(xi, (0.1, 0.2))
    equations = Equations(
        (regime,), library.names(), library.latex(), np.array([0.6, 0.4]), "s", ()
    )
    a = rng.uniform(0.5, 1.5, (4, library.states))
    expected = library.evaluate(a) @ xi
    for k, (_, terms, _, _) in enumerate(typeset(equations, regime)):
        maths = [ET.fromstring(each) for each in terms]
        for point, value in zip(a, expected[:, k], strict=True):
            got = sum(evaluate(math, point) for math in maths)
            assert_allclose(got, value, rtol=2e-3, atol=1e-3 * np.abs(xi[:, k]).max())


def test_names_of_networks_are_escaped_and_whatever_is_in_a_term_makes_elements():
    assert "my_op&lt;b&gt;" in term(r"\mathrm{my\_op<b>}\left(a_{1}/2.5, a_{2}\right)")
    for odd in ("", "a_", "{", "}", r"\left(", r"\frac", "^2", "a_{1}^", "<&>"):
        ET.fromstring(f"<math>{term(odd)}</math>")


def test_equations_that_do_not_decode_say_so_wherever_they_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("romzarr.compression.model.MODEL_BYTES", 10**6)
    ds = xr.Dataset({"u": (("time", "x"), wave(T, 30))}, {"time": T})
    romzarr.compress(ds, tmp_path / "run", tolerance=1e-4)
    assert romzarr.info(tmp_path / "run").nonzero_terms
    for command in (["info"], ["equations", "--modes"]):
        assert main([*command, str(tmp_path / "run")]) == 0
        assert "not used for decoding" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0
    page = checked(tmp_path / "page.html")
    assert "Not used for decoding" in page.text
    assert "No model is used" in page.text
    # Nor has its figure curves of the model.
    for words in ("model, from each sample", "sample kept"):
        assert words not in page.text


def test_equations_that_explain_nothing_are_left_out_and_named(tmp_path, capsys):
    walk = np.cumsum(np.random.default_rng(0).standard_normal((240, 2)), axis=0)
    x, t = np.linspace(0, 6, 80), 0.1 * np.arange(240)[:, None]
    u = np.sin(x - t) + 0.02 * (walk @ [np.cos(5 * x), np.sin(7 * x)])
    romzarr.compress(xr.Dataset({"u": (("time", "x"), u)}, {"time": t[:, 0]}), tmp_path / "run")
    (regime,) = romzarr.equations(tmp_path / "run").regimes
    assert regime.unexplained == (2, 3)
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0
    text = " ".join(checked(tmp_path / "page.html").text.split())
    assert "No equation explains a₃, a₄: the residual of the best one is nearly the whole" in text
    assert re.findall(r"residual [^ ]+ %", text) == [
        f"residual {100 * residual:.2g} %" for residual in regime.residual[:2]
    ]
    assert main(["equations", "--modes", str(tmp_path / "run")]) == 0
    assert "a3' = 0    [residual 100 %, explains nothing]" in capsys.readouterr().out


def test_long_equations_show_their_largest_terms():
    library = library_from_spec({"kind": "polynomial", "states": 9, "degree": 3})
    xi = np.linspace(1, 2, library.size)[:, None]
    regime = Regime(xi, (0.1,))
    equations = Equations((regime,), library.names(), library.latex(), np.ones(9), "s", ())
    ((_, terms, more, _),) = typeset(equations, regime)
    assert (len(terms), more) == (40, library.size - 40)


# --- colours ------------------------------------------------------------------------------


def test_colours_fit_the_values():
    x = np.linspace(-1, 1, 101)
    assert fitting(x) == "diverging"
    assert fitting(x + 280) == "magnitude"
    low, high, _ = limits(np.append(x, [np.nan, 50]), "diverging")
    assert low == -high
    assert 0.9 < high < 50
    assert limits(np.full(9, np.nan), "magnitude")[0] < limits(np.full(9, np.nan), "magnitude")[1]
    for scale in ("diverging", "magnitude", "error"):
        low, high, _ = limits(np.zeros(9), scale)
        assert low < high


# --- catalogue ----------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    """A folder of stores with the catalogue of a nightly run, one of them with a page."""
    runs = {"b/wave": 2, "old": 3, "off": 4, "broken": 5}
    for name, phase in runs.items():
        ds = xr.Dataset({"u": (("time", "x"), wave(T + phase, 300))}, {"time": T})
        if name == "broken":
            ds = ds.astype("f8")
            ds.u[7, 3] = 1e200
        ds.to_zarr(tmp_path / "archive" / f"{name}.zarr", consolidated=False)
    config = tmp_path / "config.yaml"
    places = {name: str(tmp_path / name) for name in ("archive", "stores")}
    config.write_text(json.dumps({"nightly": places | {"pattern": "**/*.zarr"}}))
    assert main(["nightly", "--config", str(config)]) == 1
    stores = tmp_path / "stores"
    off = stores / "catalogue" / "off.zarr.json"
    entry = json.loads(off.read_text())
    entry["verified"]["error"] = 0.02
    off.write_text(json.dumps(entry))
    page = next(path for path in stores.rglob("wave*") if path.is_dir() and path.parent.name == "b")
    page.with_name(f"{page.name}.html").write_text("a report")
    shutil.copytree(tmp_path / "archive" / "old.zarr", tmp_path / "archive" / "new.zarr")
    return stores, config


def test_the_archive_lists_first_what_needs_attention(archive):
    stores, config = archive
    out = stores / "index.html"
    arguments = ["report", "--catalogue", str(stores), "-o", str(out), "--config", str(config)]
    assert main(arguments) == 0
    page = checked(out, scripts=1)
    names = ["off.zarr", "broken.zarr", "new.zarr", "b/wave.zarr", "old.zarr"]
    places = [page.text.index(name) for name in names]
    assert places[:3] == sorted(places[:3])
    assert max(places[:3]) < min(places[3:])
    for words in (
        "above tolerance",
        "cannot be squared",
        "1 failed",
        " s ago",
    ):
        assert words in page.text
    content = out.read_text()
    assert content.count("<a ") == 1
    assert re.search(r'href="b/wave[^"/]*\.html"', content)
    assert content.count("<polyline") == 3
    # Without the settings only what is in the catalogue is known.
    assert main(arguments[:-2]) == 0
    assert "new.zarr" not in checked(out, scripts=1).text


def test_a_message_has_a_row_of_its_own_and_columns_know_what_to_sort_by(archive):
    stores, config = archive
    out = stores / "index.html"
    arguments = ["report", "--catalogue", str(stores), "-o", str(out), "--config", str(config)]
    assert main(arguments) == 0
    table = ET.fromstring(
        re.search(r"<table class=\"sortable\">.*?</table>", out.read_text(), re.S)[0]
    )
    columns = len(table.findall("thead/tr/th"))
    broken = next(b for b in table.findall("tbody") if "broken" in "".join(b.itertext()))
    first, message = broken.findall("tr")
    assert [cell.text for cell in first.findall("td")][:2] == ["broken.zarr", "failed"]
    (cell,) = message.findall("td")
    assert cell.get("colspan") == str(columns)
    assert "cannot be squared" in cell.find("div").text
    for body in table.findall("tbody"):
        cells = body.find("tr").findall("td")
        assert len(cells) == columns
        for each in cells[2:7]:
            assert (each.get("data-key") is None) == (each.text is None)


def test_names_in_a_catalogue_are_text(tmp_path):
    rows = [
        {
            "standing": DatasetState(HOSTILE, "failed", HOSTILE, None),
            "entry": Entry(HOSTILE, HOSTILE, HOSTILE, "failed"),
            "state": "failed",
            "page": "",
            "modes": ("", ""),
        }
    ]
    facts = {
        "summary": [],
        "left_out": 0,
        "runs": [4 * [HOSTILE]],
        "states": STATES,
        "looks": LOOKS,
    }
    page = rendered(
        "catalogue.html", HOSTILE, HOSTILE, rows=rows, most=400, small=(110, 26), **facts
    )
    (tmp_path / "page.html").write_text(page)
    assert checked(tmp_path / "page.html", scripts=1).text.count(HOSTILE) == 9


def test_a_folder_without_a_catalogue_is_said(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "index.html")
    assert main(["report", "--catalogue", str(tmp_path / "empty"), "-o", out]) == 1
    assert "romzarr nightly" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "page.html"], "neither"),
        (["store", "--catalogue", "stores", "-o", "page.html"], "either one store"),
        (["store", "-o", "nowhere/page.html"], "nowhere"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_computed(
    tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path):
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from romzarr_flows.cli import main\n"
        "sys.exit(main(['report', 'store', '-o', 'x.html']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "pip install 'romzarr[plot]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
