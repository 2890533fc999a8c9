"""Datasets are found by globs, locally and among objects, each whole and none twice."""

import os

import fsspec
import pytest

from romzarr.archive.find import dataset_at, find_datasets
from romzarr.archive.stamp import stamp_of
from romzarr.errors import ArchiveError

FILES = (
    *("a.zarr/zarr.json", "a.zarr/u/c/0/0", "a.zarr/u/nested.zarr/zarr.json"),
    *("2031/b.zarr/.zgroup", "2031/c.nc", "2031/deep/er/d.zarr/zarr.json"),
    *(".hidden/e.zarr/zarr.json", ".f.zarr.partial/zarr.json", "other/zarr.json"),
    *("other/g.zarr/zarr.json", "stores/a.romzarr/zarr.json", "stores/h.zarr/zarr.json"),
)
# What each glob finds; other/ is a Zarr group of its own, so nothing in it is another.
FOUND = {
    "*.zarr": ["a.zarr"],
    "**/*.zarr": ["2031/b.zarr", "2031/deep/er/d.zarr", "a.zarr"],
    "20??/*": ["2031/b.zarr", "2031/c.nc", "2031/deep"],
    "**/*.nc": ["2031/c.nc"],
    "*/*.zarr": ["2031/b.zarr"],
    "none*": [],
}


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    if request.param == "local":
        for name in FILES:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        return str(tmp_path)
    system = fsspec.filesystem("memory")
    for name in FILES:
        # Of a group among objects nothing is looked at but names, so other/ is left out.
        if not name.startswith("other/"):
            system.pipe_file(f"/archive/{name}", name.encode())
    return "memory://archive"


@pytest.mark.parametrize("pattern", FOUND)
def test_a_glob_finds_the_outermost_folders_and_files_that_match(root, pattern):
    found = find_datasets(root, pattern, leave_out=[f"{root}/stores"])
    assert [dataset.name for dataset in found] == FOUND[pattern]


def test_a_dataset_is_all_its_files(root):
    (found,) = find_datasets(root, "*.zarr")
    names = [name for name in FILES if name.startswith("a.zarr/")]
    assert found.nbytes == sum(map(len, names))
    assert found.location == f"{root}/a.zarr"
    # What `compress` takes of the dataset alone has to be the same.
    assert found.stamp == stamp_of(found.location)
    assert found == dataset_at(found.location, "a.zarr")


def test_only_narrows_what_the_pattern_finds(root):
    found = find_datasets(root, "**/*.zarr", only="2031/**", leave_out=[f"{root}/stores"])
    assert [dataset.name for dataset in found] == ["2031/b.zarr", "2031/deep/er/d.zarr"]


def test_links_to_datasets_count_and_circles_end(tmp_path):
    (tmp_path / "far" / "x.zarr").mkdir(parents=True)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "y.zarr").symlink_to(tmp_path / "far" / "x.zarr")
    (tmp_path / "archive" / "round").symlink_to(tmp_path / "archive")
    found = find_datasets(str(tmp_path / "archive"), "**/*.zarr")
    assert [dataset.name for dataset in found] == ["y.zarr"]


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ArchiveError, match="absent"):
        find_datasets(str(tmp_path / "absent"), "*.zarr")
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match="not a folder"):
        find_datasets(str(tmp_path / "file"), "*.zarr")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_may_not_be_read_costs_only_itself(tmp_path, caplog):
    for name in ("closed/a.zarr", "open/b.zarr"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    found = find_datasets(str(tmp_path), "**/*.zarr")
    assert [dataset.name for dataset in found] == ["open/b.zarr"]
    assert "closed is skipped" in caplog.text
    (tmp_path / "closed").chmod(0o755)
