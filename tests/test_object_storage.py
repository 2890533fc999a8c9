"""Archives and stores on S3, over HTTP, through a network that fails."""

import asyncio
import hashlib
import itertools
import pickle
import re
import threading
import time
from collections import Counter
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import romzarr
from romzarr import objects
from romzarr.archive import open_archive
from romzarr.archive.time_axis import shown_time
from romzarr.errors import ArchiveError, StorageError, StoreError, StoreExistsError
from romzarr.objects import cache, requests
from romzarr.store import layout
from romzarr.store.commit import Commit, committer
from romzarr.store.layout import Part, Root
from romzarr.store.reading.reader import _opened, open_store
from romzarr.store.writing.files import put
from romzarr_flows.cli import main
from tests.oracles import decoded_errors
from tests.s3_server import fresh_connections, make_bucket, proxied, serving

obstore = pytest.importorskip("obstore", reason="s3:// URLs need obstore")

ID, SECRET = "AKIDCANARY4711", "canary/secret+4711"
TOLERANCE = 1e-2


@pytest.fixture(scope="module")
def server():
    with serving() as address:
        yield address


numbers = itertools.count()


@pytest.fixture
def s3(server, monkeypatch):
    """The proxy in front of a server, and the URL of an empty bucket there."""
    settings = {
        "AWS_ACCESS_KEY_ID": ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(requests, "SILENT_SECONDS", 0.6)
    monkeypatch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.01)
    with proxied(server) as proxy, fresh_connections():
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        bucket = f"bucket-{next(numbers)}"
        make_bucket(server, bucket)
        yield proxy, f"s3://{bucket}"


def waves(seed: int = 0) -> xr.Dataset:
    t, x = np.linspace(0, 6, 60)[:, None], np.linspace(0, 1, 80)[None, :]
    u = sum(np.sin(k * (3 * t - 5 * x + seed)) / k**2 for k in (1, 2, 3))
    return xr.Dataset({"u": (("time", "x"), u)}, {"time": t[:, 0], "x": x[0]})


def archived(url: str, source: xr.Dataset) -> str:
    place = f"{url}/archive.zarr"
    store = objects.zarr_store(place, read_only=False)
    source.to_zarr(store, encoding={"u": {"chunks": (20, 40)}}, consolidated=False)
    return place


def names(url: str) -> list[str]:
    return sorted(objects.folder(url).files())


# --- the way there and back ---------------------------------------------------------------


def test_an_archive_on_s3_becomes_a_store_on_s3(s3, capsys):
    _, url = s3
    source, store = waves(), f"{url}/deep/er/store.romzarr"
    place = archived(url, source)
    assert main(["compress", place, store, "--tolerance", "1e-2", "--json"]) == 0
    assert main(["verify", store, place]) == 0
    assert main(["info", store]) == 0
    decoded = xr.open_dataset(store, engine="romzarr", chunks={})
    assert max(decoded_errors(source, decoded).values()) <= TOLERANCE
    with pytest.raises(StoreExistsError, match="already exists"):
        romzarr.compress(place, store, tolerance=TOLERANCE)
    # One generation and the root that names it.
    assert len(objects.folder(store).names()) == 2


def test_few_requests_are_made_and_none_twice(s3):
    """A chunk, and the document of a generation, is read or written by one request."""
    proxy, url = s3
    place, store = archived(url, waves()), f"{url}/store.romzarr"
    proxy.requests.clear()
    romzarr.compress(place, store, tolerance=TOLERANCE)
    made = Counter((method, path) for method, path, _ in proxy.requests)
    # The stamp of the archive is taken before and after it is read.
    assert [n for (_, path), n in made.items() if n > 1] == [2]
    bucket = url.removeprefix("s3://")
    assert made["GET", f"/{bucket}?list-type=2&prefix=archive.zarr%2F"] == 2
    assert {method for method, _ in made} == {"GET", "PUT"}
    written = sum(method == "PUT" for method, _ in made)
    # 8 chunks and 7 documents of the archive, 4 listings of it, 3 looks at the store.
    assert made.total() - written <= 22
    assert written == len(names(store)) <= 9
    proxy.requests.clear()
    open_store(store)
    assert len(proxy.requests) == 2
    xr.open_dataset(store, engine="romzarr").load()
    assert len(proxy.requests) <= len(names(store)) + 5


def most_at_a_time(proxy, read) -> int:
    """Requests that were under way side by side while `read` ran, if each takes its time."""
    under_way, seen, lock = [0], [0], threading.Lock()

    def slow(method, path):
        with lock:
            under_way[0] += 1
            seen[0] = max(seen[0], under_way[0])
        time.sleep(0.1)
        with lock:
            under_way[0] -= 1

    proxy.fault = slow
    try:
        read()
    finally:
        proxy.fault = lambda method, path: None
    return seen[0]


def test_indexes_are_fetched_side_by_side_and_so_are_tiles(s3, monkeypatch):
    proxy, url = s3
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((600, 8, 9)).astype("f4")
    # What is regular is no array of its own.
    forcing = {f"forcing_{k}": ("time", rng.standard_normal(600)) for k in range(2)}
    source = xr.Dataset(
        {"u": (("time", "y", "x"), noise)},
        {"time": rng.random(600).cumsum(), "y": np.arange(8.0), "x": np.arange(9.0), **forcing},
    )
    monkeypatch.setattr("romzarr.coding.tiles.LOOK_VALUES", 1 << 13)
    chunked = source.assign(u=source.u.chunk(time=100))
    romzarr.compress(chunked, f"{url}/s", tolerance=0.1)
    opened = []
    assert most_at_a_time(proxy, lambda: opened.append(open_dataset(f"{url}/s"))) == 3
    tiles = open_store(f"{url}/s").last.arrays
    assert -(-600 // tiles.chunk("basis/u/values")[0]) > 3
    proxy.requests.clear()
    assert most_at_a_time(proxy, opened[0].load) > 3
    # Each tile once.
    assert len(proxy.requests) == len({path for _, path, _ in proxy.requests})
    assert romzarr.verify(f"{url}/s", source).ok
    # What is fetched ahead is checked like all else.
    part = open_store(f"{url}/s").last
    files, key = (
        layout.zarr_store(f"{url}/s/{part.name}", read_only=False),
        "basis/u/values/c/1/0/0",
    )
    content = bytearray(sync(files.get(key, default_buffer_prototype())).to_bytes())
    content[len(content) // 2] ^= 1
    put(files, key, bytes(content))
    _opened.cache_clear()
    with pytest.raises(StoreError, match=f"{part.name}/{key}"):
        open_dataset(f"{url}/s").load()


def test_a_history_takes_one_round_of_requests_after_two_to_open(s3):
    """Singular values and regular coordinates are facts; coefficients and modes come together."""
    proxy, url = s3
    romzarr.compress(waves(), f"{url}/s", tolerance=1e-2)
    proxy.requests.clear()
    opened = open_dataset(f"{url}/s")
    assert len(proxy.requests) == 2
    proxy.requests.clear()
    assert most_at_a_time(proxy, lambda: opened.u.isel(x=3).load()) == 2
    assert len(proxy.requests) == 2


def open_dataset(url) -> xr.Dataset:
    return xr.open_dataset(url, engine="romzarr")


def test_netcdf_and_csv_are_read_from_s3(s3, tmp_path):
    _, url = s3
    waves().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    (tmp_path / "a.csv").write_text("0,1,2,3,4,5\n1,4,9,16,25,36\n")
    for name in ("a.nc", "a.csv"):
        assert objects.folder(url).replace(name, (tmp_path / name).read_bytes(), None)
        (variable, *_) = open_archive(f"{url}/{name}").variables
        assert variable.shape in {(60, 80), (1, 6)}


def test_public_data_is_read_without_credentials(s3, monkeypatch):
    proxy, url = s3
    place = archived(url, waves())
    assert all("authorization" in headers for _, _, headers in proxy.requests)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    proxy.requests.clear()
    with fresh_connections():
        assert open_archive(place).variables[0].shape == (60, 80)
    assert proxy.requests
    assert not any("authorization" in headers for _, _, headers in proxy.requests)


def test_without_credentials_it_is_said_that_there_are_none(s3, monkeypatch):
    proxy, url = s3
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Where a machine of a cloud asks for its role.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", proxy.url)
    proxy.fault = lambda method, path: "503"
    with fresh_connections(), pytest.raises(StorageError, match="found no credentials"):
        open_archive(f"{url}/a.zarr")


def test_a_bucket_that_is_not_there_is_said_not_to_be_at_once(s3):
    proxy, _ = s3
    place = objects.folder("s3://no-such-bucket/deep/er")
    asking = [
        lambda: place.read("a", 9),
        lambda: place.write("a", b"1"),
        lambda: place.replace("a", b"1", None),
        place.names,
        place.files,
    ]
    for ask in asking:
        proxy.requests.clear()
        with pytest.raises(StorageError, match=r"^s3://no-such-bucket: there is no such bucket"):
            ask()
        assert len(proxy.requests) == 1


def test_no_thread_but_those_of_python_calls_python(s3, tmp_path, monkeypatch):
    """One of Rust's that is late while Python finalizes aborts the process.

    What wakes an event loop from outside is seen here, and so is who does it.
    """
    _, url = s3
    foreign, real = set(), asyncio.BaseEventLoop.call_soon_threadsafe

    def call(self, *arguments, **options):
        if isinstance(threading.current_thread(), threading._DummyThread):
            foreign.add(threading.get_ident())
        calls.append(self)
        return real(self, *arguments, **options)

    calls = []
    for loop in (asyncio.BaseEventLoop, asyncio.SelectorEventLoop):
        monkeypatch.setattr(loop, "call_soon_threadsafe", call)
    place, store = archived(url, waves()), f"{url}/store.romzarr"
    romzarr.compress(place, store, tolerance=TOLERANCE)
    assert romzarr.verify(store, place).ok
    xr.open_dataset(store, engine="romzarr").load()
    waves().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    objects.folder(url).write("a.nc", (tmp_path / "a.nc").read_bytes())
    assert open_archive(f"{url}/a.nc").variables[0].shape == (60, 80)
    objects.folder(store).remove("")
    assert len(calls) > 50
    assert not foreign


# --- what need not be asked for again -----------------------------------------------------


@pytest.mark.parametrize("tagged", ["with the MD5", "otherwise"])
def test_what_storage_says_it_received_whole_is_not_read_back(s3, monkeypatch, tagged):
    proxy, url = s3
    store = objects.zarr_store(f"{url}/a.zarr", read_only=False)
    if tagged == "otherwise":
        # As of an object that is encrypted with a key of the bucket's owner.
        other = SimpleNamespace(md5=lambda content, **options: hashlib.sha256(content))
        monkeypatch.setattr(cache, "hashlib", other)
    with objects.caching(lambda key: "/a.zarr/u" in key):
        for path in ("u", "v"):
            put(store, path, b"123")
        proxy.requests.clear()
        assert [content(store, path) for path in "uuvv"] == [b"123"] * 4
    gets = [path[-1] for _, path, _ in proxy.requests]
    assert gets == (["v", "v"] if tagged == "with the MD5" else ["u", "v", "v"])
    proxy.requests.clear()
    assert content(store, "u") == b"123"
    assert len(proxy.requests) == 1


def test_no_more_is_held_than_there_is_room_for(s3, monkeypatch):
    proxy, url = s3
    monkeypatch.setattr(cache, "CACHE_BYTES", 1000)
    store = objects.zarr_store(f"{url}/a.zarr", read_only=False)
    with objects.caching(lambda key: True):
        for path in "abc":
            put(store, path, bytes(400))
        proxy.requests.clear()
        assert all(content(store, path) == bytes(400) for path in "abcabc")
    assert [path[-1] for _, path, _ in proxy.requests] == ["c", "c"]


def content(store, path: str) -> bytes:
    return sync(store.get(path, default_buffer_prototype())).to_bytes()


@pytest.mark.parametrize("number", [20, 33])  # the first of a chunk, and another
def test_only_objects_written_anew_are_compared_with_the_store(s3, tmp_path, number):
    proxy, url = s3
    place, store = archived(url, waves()), tmp_path / "store.romzarr"
    romzarr.compress(place, store, tolerance=TOLERANCE)

    def chunks_read() -> set[str]:
        proxy.requests.clear()
        assert romzarr.append(store, place).appended == 0
        gets = (path for method, path, _ in proxy.requests if method == "GET")
        return {path.partition("archive.zarr/")[2] for path in gets if "/archive.zarr/u/c/" in path}

    assert chunks_read() == set()
    array = zarr.open_array(objects.zarr_store(place, read_only=False), path="u", mode="r+")
    value = float(array[number, 7])
    array[number, 7] = value + 1
    words = re.escape(
        f"changed at time[{number}] ({shown_time(waves().time.values, number)}): variable 'u'"
    )
    with pytest.raises(ArchiveError, match=words):
        romzarr.append(store, place)
    array[number, 7] = value + 1e-9
    assert chunks_read() == {f"u/c/{number // 20}/{part}" for part in (0, 1)}
    # An object with the same content is the same version.
    array[number, 7] = value
    assert chunks_read() == set()


# --- secrets ------------------------------------------------------------------------------


def holds_secret(content: bytes) -> bool:
    return any(word.encode() in content for word in (ID, SECRET))


def test_secrets_are_in_no_graph_log_store_or_report(s3, caplog, capfd):
    proxy, url = s3
    source, store = waves(), f"{url}/store.romzarr"
    place = archived(url, source)
    # Every graph that is computed meanwhile, as it would travel to a scheduler.
    graphs = []

    def recorded(dsk, keys, **options):
        graphs.append(pickle.dumps((dict(dsk) if hasattr(dsk, "layers") else dsk, keys)))
        return dask.get(dsk, keys, **options)

    with caplog.at_level("DEBUG"):
        with dask.config.set(scheduler=recorded):
            romzarr.compress(place, store, tolerance=TOLERANCE)
            romzarr.verify(store, place)
            xr.open_dataset(store, engine="romzarr", chunks={"time": 20}).u.sum().compute()
        assert main(["info", store, "--json"]) == 0
        for fault in ("403", "500"):
            proxy.fault = lambda method, path, fault=fault: fault
            assert main(["verify", store, place]) == 1
        proxy.fault = lambda method, path: None
    assert len(graphs) > 3
    # What is looked at is what would travel.
    assert any(place.encode() in graph for graph in graphs)
    out, err = capfd.readouterr()
    everything = [*graphs, out.encode(), err.encode(), caplog.text.encode()]
    everything += [objects.folder(url).read(name, 10**9).content for name in names(url)]
    assert not any(holds_secret(content) for content in everything)
    assert "access is refused" in err
    assert "does not answer" in err


def test_a_zarr_store_pickles_without_secrets_and_opens_with_those_of_the_process(s3):
    _, url = s3
    archived(url, waves())
    store = objects.zarr_store(f"{url}/archive.zarr", read_only=True)
    pickled = pickle.dumps(store)
    assert not holds_secret(pickled)
    assert len(pickled) < 200
    again = pickle.loads(pickled)
    assert again == store
    assert xr.open_zarr(again, consolidated=False).u.shape == (60, 80)


# --- a network that fails -----------------------------------------------------------------


def every(number: int, *faults: str):
    """One request of so many fails, in each of these ways by turns."""
    counter, turns = itertools.count(1), itertools.cycle(faults)
    return lambda method, path: next(turns) if next(counter) % number == 0 else None


PASSING = ["500", "503", "reset", "lost", "truncated", "stalled", "hang"]


def test_what_fails_now_and_then_changes_nothing(s3):
    proxy, url = s3
    source, store = waves(), f"{url}/store.romzarr"
    place = archived(url, source)
    proxy.fault = every(7, *PASSING)
    romzarr.compress(place, store, tolerance=TOLERANCE)
    assert romzarr.verify(store, place).ok
    proxy.fault = lambda method, path: None
    decoded = xr.open_dataset(store, engine="romzarr").load()
    assert max(decoded_errors(source, decoded).values()) <= TOLERANCE
    assert len(objects.folder(store).names()) == 2


@pytest.mark.parametrize("fault", PASSING)
def test_any_request_is_sent_again_and_none_forever(s3, fault, monkeypatch):
    proxy, url = s3
    monkeypatch.setattr(requests, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(requests, "TRIES", 3)
    place = objects.folder(url)
    works = {
        "PUT": lambda: place.replace("a", b"123456", None),
        "GET": lambda: place.read("a", 9).content == b"123456",
        "LIST": lambda: [*place.files()] == ["a"] and place.names() == {"a"},
        "POST": lambda: place.remove("") is None,
    }
    for work in works.values():
        proxy.fault, before = every(2, fault), len(proxy.requests)
        assert work()
        assert work()
        assert len(proxy.requests) > before + 2
    for work in (works["GET"], works["LIST"]):
        began, proxy.fault = time.monotonic(), lambda method, path: fault
        with pytest.raises(StorageError, match=r"s3://.*: object storage does not answer.*run aga"):
            work()
        assert time.monotonic() - began < 5


def test_a_read_that_always_fails_ends_with_what_to_do_and_leaves_nothing(s3):
    proxy, url = s3
    place = archived(url, waves())
    proxy.fault = lambda method, path: "503" if "/u/c/" in path and method == "GET" else None
    with pytest.raises(StorageError, match=r"/u/c/\d/\d: object storage does not answer.*run aga"):
        romzarr.compress(place, f"{url}/store.romzarr", tolerance=TOLERANCE)
    assert names(f"{url}/store.romzarr") == []


def test_a_write_that_always_fails_leaves_what_was_there(s3):
    proxy, url = s3
    store = f"{url}/store.romzarr"
    published(begun(store))
    before = names(store)
    proxy.fault = lambda method, path: "403" if method == "PUT" and "/basis/" in path else None
    with pytest.raises(StoreError, match=r"cannot be written: .*access is refused.*nothing was"):
        romzarr.compress(waves(1), store, tolerance=TOLERANCE, overwrite=True)
    assert names(store) == before


# --- the commit ---------------------------------------------------------------------------


def begun(store: str, overwrite: bool = False, onto: Root | None = None) -> Commit:
    """A writer that has written its generation."""
    commit = committer(store, overwrite, [], onto)
    commit.begin()
    assert objects.folder(commit.url).replace("chunk", b"1", None)
    return commit


def parts_of(commit: Commit) -> tuple[Part, ...]:
    return (Part(commit.generation, "00000000"),)


def published(commit: Commit) -> None:
    try:
        commit.publish(parts_of(commit))
    finally:
        commit.abort()


def assert_holds(store: str, commit: Commit) -> None:
    root = layout.parse_root(layout.read_bytes(f"{store}/{layout.ROOT}"), store)
    assert root.parts == parts_of(commit)
    assert names(store) == sorted([*(f"{each}/chunk" for each in root.named), layout.ROOT])


def is_commit(method: str, path: str) -> bool:
    return method == "PUT" and path.partition("?")[0].endswith(f"store/{layout.ROOT}")


@pytest.mark.parametrize("fault", ["lost", "500", "reset", "hang"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_commit_whose_answer_is_lost_is_found_to_be_done(s3, fault, overwrite):
    proxy, url = s3
    store = f"{url}/store"
    if overwrite:
        published(begun(store))
    commit, tries = begun(store, overwrite), itertools.count()
    proxy.fault = lambda method, path: (
        fault if is_commit(method, path) and not next(tries) else None
    )
    published(commit)
    assert next(tries) == 2
    assert_holds(store, commit)


def test_a_commit_that_is_not_known_to_be_done_removes_nothing(s3):
    proxy, url = s3
    store = f"{url}/store"
    published(begun(store))
    commit, dead = begun(store, overwrite=True), threading.Event()

    def dead_from_then_on(method, path):
        if is_commit(method, path) and not dead.is_set():
            dead.set()
            return "lost"
        return "500" if dead.is_set() else None

    proxy.fault = dead_from_then_on
    with pytest.raises(StoreError, match=r"it is unknown whether the commit succeeded"):
        published(commit)
    proxy.fault = lambda method, path: None
    # The server had done it.
    root = layout.parse_root(layout.read_bytes(f"{store}/{layout.ROOT}"), store)
    assert root.parts == parts_of(commit)
    assert f"{commit.generation}/chunk" in names(store)


@pytest.mark.parametrize("there", [False, True])
def test_of_two_writers_at_once_one_is_refused(s3, there):
    _, url = s3
    store = f"{url}/store"
    if there:
        published(begun(store))
    first, second = begun(store, overwrite=True), begun(store, overwrite=True)
    published(first)
    words = "was changed by another writer" if there else "already exists"
    with pytest.raises(StoreError, match=words):
        published(second)
    assert_holds(store, first)


def test_what_is_added_to_a_store_that_changed_is_refused(s3):
    _, url = s3
    store = f"{url}/store"
    published(begun(store))
    onto = layout.parse_root(layout.read_bytes(f"{store}/{layout.ROOT}"), store)
    adding, other = begun(store, onto=onto), begun(store, overwrite=True)
    published(other)
    with pytest.raises(StoreError, match="was changed by another writer"):
        published(adding)
    assert_holds(store, other)


def test_the_condition_is_one_of_the_request_itself(s3):
    proxy, url = s3
    for overwrite, header in ((False, "if-none-match"), (True, "if-match")):
        commit = begun(f"{url}/store", overwrite)
        proxy.requests.clear()
        published(commit)
        sent = [headers for method, path, headers in proxy.requests if is_commit(method, path)]
        assert len(sent) == 1
        assert header in sent[0]


def test_what_failed_writers_left_goes_when_it_is_a_week_old(s3):
    _, url = s3
    store = f"{url}/store"
    for generation in ("20200101T000000-00000000", "29990101T000000-00000000"):
        assert objects.folder(f"{store}/{generation}").replace("chunk", b"half", None)
    commit = begun(store)
    published(commit)
    assert objects.folder(store).names() == {
        layout.ROOT,
        commit.generation,
        "29990101T000000-00000000",
    }
