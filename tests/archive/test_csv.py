"""CSV files: rows are variables, columns are time steps."""

import gzip
import logging
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.archive import csv_cells, open_archive
from romzarr.archive.csv_table import read_csv, read_table
from romzarr.contracts import Layout
from romzarr.errors import ArchiveError

VALUES = np.random.default_rng(0).standard_normal((3, 6))


def saved(folder, text, name="a.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def table(header, labels, corner="time", delimiter=",", values=VALUES):
    rows = [[repr(float(value)) for value in row] for row in values]
    if labels:
        rows = [[label, *row] for label, row in zip(labels, rows, strict=True)]
    if header:
        rows.insert(0, [corner, *header] if labels else list(header))
    return "\n".join(delimiter.join(row) for row in rows) + "\n"


NUMBERS = [f"{0.1 * i:.1f}" for i in range(6)]
DATES = [f"2001-01-{day:02d}" for day in range(1, 7)]


@given(
    header=st.sampled_from([None, NUMBERS, DATES]),
    labels=st.sampled_from([None, ["u", "v", "wind speed"], ["1", "2", "x3"]]),
    corner=st.sampled_from(["time", "", "t (s)", "Date", "# time [s]"]),
    delimiter=st.sampled_from([",", ";", "\t", "|", ", "]),
)
@settings(deadline=None, max_examples=60)
def test_header_labels_and_delimiter_are_found(tmp_path_factory, header, labels, corner, delimiter):
    text = table(header, labels, corner, delimiter)
    dataset = read_csv(saved(tmp_path_factory.mktemp("csv"), text))
    assert dataset.x.dims == ("row", "time")
    assert_array_equal(dataset.x.values, VALUES)
    assert ("row" in dataset.coords) == bool(labels)
    if labels:
        assert dataset.row.values.tolist() == labels
    if header is None:
        assert "time" not in dataset.coords
    elif header is DATES:
        assert_array_equal(dataset.time.values, np.array(DATES, "datetime64[ns]"))
    else:
        assert_array_equal(dataset.time.values, np.array(NUMBERS, float))
        if labels and corner.endswith(("(s)", "[s]")):
            assert dataset.time.attrs["units"] == "s"


def test_white_space_blank_lines_and_a_byte_order_mark_are_understood(tmp_path):
    text = "\ufefftime 0 1 2 3 4\n\nu  1 2 3 4 nan\n"
    dataset = read_csv(saved(tmp_path, text))
    assert dataset.data_vars.keys() == {"u"}  # a single series has its own name
    assert_array_equal(dataset.u.values, [1, 2, 3, 4, np.nan])


def test_a_matrix_of_ramps_has_no_header(tmp_path):
    dataset = read_csv(saved(tmp_path, "0,1,2,3,4\n0,2,4,6,8\n"))
    assert dataset.x.shape == (2, 5)


def test_a_csv_file_is_an_archive(tmp_path, read_all):
    path = saved(tmp_path, table(DATES, ["u", "v", "w"]))
    assert_array_equal(read_all(open_archive(path).variables[0]), VALUES)
    archive = open_archive(path, series="each")
    assert [variable.name for variable in archive.variables] == ["u", "v", "w"]
    assert [variable.dims for variable in archive.variables] == [("time",)] * 3
    assert archive.time.units == "d"
    assert_array_equal(np.stack([read_all(v) for v in archive.variables]), VALUES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,0,1,2,3,4\nu,1,2,3,4,5\nv,1,2,3,4\n", "line 3, column 6: the row has 5 cells"),
        ("time,0,1,2,3,4\n\nu,1,2,3,4,5,6\n", "line 3, column 7: the row has 7 cells, but line 1"),
        ("time,0,1,2,3,4\nu,1,2,x,4,5\n", "line 2, column 4: 'x' is not a number"),
        ("time,0,1,two,3,4\nu,1,2,3,4,5\n", "line 1, column 4: 'two' is not a number"),
        ("time,2001-01-01,2001-02-31\nu,1,2\n", "line 1: invalid date"),
        ("u,1,2,3,4,5\nu,1,2,3,4,5\n", "line 2, column 1: label 'u' is also on line 1"),
        ("x,1,2,3,4,5\ntime,1,2,3,4,5\n", "line 2, column 1: label 'time' .*reserved for the axis"),
        ("", "has no rows"),
        ("time,0,1,2,3,4\n", "a row of times but no rows of values"),
        ("time,0,1,1,3,4\nu,1,2,3,4,5\n", r"time\[2\] = 1.0 duplicates"),
    ],
)
def test_damaged_tables_are_refused_by_line_and_column(tmp_path, text, message):
    with pytest.raises(ArchiveError, match=message):
        open_archive(saved(tmp_path, text))


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(ArchiveError, match="not CSV text in UTF-8"):
        open_archive(tmp_path / "a.csv")


@pytest.mark.parametrize("corner", ["name", "Variable", "channel / s", "quantities"])
def test_increasing_numbers_beside_a_word_for_labels_are_times(tmp_path, corner):
    dataset = read_csv(saved(tmp_path, f"{corner},0,0.5,2,3,7\np,4,3,2,1,0\nq,0,1,2,3,4\n"))
    assert dataset.row.values.tolist() == ["p", "q"]
    assert_array_equal(dataset.time.values, [0, 0.5, 2, 3, 7])


def test_numbers_that_do_not_increase_are_a_variable_whatever_its_name(tmp_path):
    dataset = read_csv(saved(tmp_path, "signal,0,3,1,2,5\nq,0,1,2,3,4\n"))
    assert dataset.row.values.tolist() == ["signal", "q"]


# --- tables as they come ------------------------------------------------------------------


def test_missing_values_are_left_empty_or_named(tmp_path):
    dataset = read_csv(saved(tmp_path, "time,0,1,2,3,4\nu,1,,NA,4,-\nv,n/a,2,3,null,nan\n"))
    assert_array_equal(dataset.x.sel(row="u"), [1, np.nan, np.nan, 4, np.nan])
    assert_array_equal(dataset.x.sel(row="v"), [np.nan, 2, 3, np.nan, np.nan])


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_decimal_commas_are_understood(tmp_path, delimiter):
    rows = [["time", "0,5", "1", "1,5"], ["u", "-1,25", "2", ",5e1"]]
    dataset = read_csv(saved(tmp_path, "\n".join(delimiter.join(row) for row in rows)))
    assert_array_equal(dataset.time.values, [0.5, 1, 1.5])
    assert_array_equal(dataset.u.values, [-1.25, 2, 5])


def test_compressed_tables_are_read(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"time,u,v\n0,1,5\n1,2,6\n2,3,7\n3,4,8\n"))
    archive = open_archive(path)
    assert archive.carried.row.values.tolist() == ["u", "v"]
    assert_array_equal(archive.time.values, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("text", "where", "names"),
    [
        ("time,u,v\n0,1,5\n1,2,6\n2,3,7\n", "columns", ["u", "v"]),
        ("time,0,1,2\nu,1,2,3\nv,5,6,7\n", "rows", ["u", "v"]),
        ("5,1\n6,2\n9,7\n4,8\n", "columns", []),
        ("5,6,9,4\n1,2,7,8\n", "rows", []),
    ],
)
def test_series_are_in_columns_or_rows_and_it_is_told(tmp_path, caplog, text, where, names):
    with caplog.at_level(logging.INFO, "romzarr.archive.csv_table"):
        archive = open_archive(saved(tmp_path, text))
    assert f"its {where} are series (archive.columns)" in caplog.text
    assert [variable.name for variable in archive.variables] == ["x"]
    if names:
        assert archive.carried.row.values.tolist() == names
    else:
        assert archive.variables[0].shape == (2, 4)
        other = {"columns": "times", "rows": "series"}[where]
        assert open_archive(saved(tmp_path, text), columns=other).variables[0].shape == (4, 2)


@pytest.mark.parametrize("layout", list(Layout))
def test_a_table_takes_little_more_memory_than_its_numbers(tmp_path, layout):
    """Cells are Python objects of 60 bytes each, and must not be there all at once."""
    values = np.random.default_rng(0).standard_normal((1000, 700))
    np.savetxt(tmp_path / "a.csv", values, "%.7g", delimiter=",")
    tracemalloc.start()
    dataset = read_table(str(tmp_path / "a.csv"), layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 3 * values.nbytes
    found = dataset.x.values
    assert_allclose(found if found.shape == values.shape else found.T, values, rtol=1e-6)


@given(
    values=st.lists(
        st.lists(st.floats(allow_infinity=False) | st.none(), min_size=3, max_size=3),
        min_size=2,
        max_size=30,
    ),
    first=st.integers(0, 3),
)
@settings(deadline=None, max_examples=40)
def test_rows_of_any_block_are_where_they_belong(tmp_path_factory, values, first):
    """Blocks hold a few cells here, so that each table has several."""
    rows = ["date,u,v,w"] + [
        ",".join([f"2001-01-{k + 1:02d}", *("" if v is None else repr(v) for v in row)])
        for k, row in enumerate(values)
    ]
    path = saved(tmp_path_factory.mktemp("csv"), "\n" * first + "\n".join(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_cells, "_BLOCK_CELLS", 7)
        dataset = read_table(path, Layout.SERIES)
    assert_array_equal(dataset.x.values, np.array(values, float).T)
    assert dataset.row.values.tolist() == list("uvw")
    days = np.datetime64("2001-01-01", "ns") + np.arange(len(values)) * np.timedelta64(1, "D")
    assert_array_equal(dataset.time.values, days)
