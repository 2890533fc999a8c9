"""Archive, stores, catalogue and lock in an object store, over real HTTP."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections import Counter

import pytest
import xarray as xr

from romzarr import objects
from romzarr.archive.find import find_datasets
from romzarr.archive.stamp import stamp_of
from romzarr.config import load_config
from romzarr.objects import requests
from romzarr_flows.cli import main
from romzarr_flows.nightly import CannotRunError, lock, team
from romzarr_flows.nightly.plan import plan_run
from tests.flows.nightly.conftest import dataset
from tests.s3_server import fresh_connections, make_bucket, proxied, serving

pytest.importorskip("obstore", reason="pip install 'romzarr[s3]'")
SECRET = "canary-k3y-that-must-be-nowhere"


@pytest.fixture(scope="module")
def server():
    with serving() as address:
        yield address


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket; credentials and address come from the environment alone."""
    name = f"bucket-{uuid.uuid4().hex}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    make_bucket(server, name)
    # Processes of a crew have the environment in which the first of them was started.
    monkeypatch.setattr(team, "FEWEST_REMOTE", 10)
    with fresh_connections():
        yield name


@pytest.fixture
def settings(bucket, tmp_path):
    path = tmp_path / "config.yaml"
    nightly = {
        "archive": f"s3://{bucket}/archive",
        "stores": f"s3://{bucket}/stores",
        "pattern": "**/*.zarr",
    }
    path.write_text(json.dumps({"compression": {"tolerance": 0.0}, "nightly": nightly}))
    return path


def add(bucket, name, seed):
    place = objects.zarr_store(f"s3://{bucket}/archive/{name}", read_only=False)
    dataset(seed).to_zarr(place, mode="w", consolidated=False, encoding={"u": {"chunks": (8, 30)}})


def everything(bucket) -> dict[str, bytes]:
    place = objects.folder(f"s3://{bucket}")
    return {path: place.read(path, 10**9).content for path in place.files()}


def test_what_is_new_is_stored_and_what_is_stored_is_left_alone(bucket, settings, capsys):
    add(bucket, "a.zarr", 1)
    add(bucket, "2031/b.zarr", 2)
    assert main(["nightly", "--config", str(settings)]) == 0
    for name, seed in (("a", 1), ("2031/b", 2)):
        store = f"s3://{bucket}/stores/{name}.romzarr"
        decoded = xr.open_dataset(store, engine="romzarr").load()
        assert decoded.identical(dataset(seed))
    before = everything(bucket)
    assert "stores/catalogue/2031/b.zarr.json" in before
    capsys.readouterr()

    add(bucket, "a.zarr", 3)
    assert main(["nightly", "--config", str(settings), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [each["dataset"] for each in json.loads(out)["datasets"]] == ["a.zarr"]
    assert main(["status", "--config", str(settings)]) == 0
    shown = capsys.readouterr().out
    assert "2 datasets: 2 stored" in shown
    after = everything(bucket)
    kept = {key: content for key, content in before.items() if "/2031/b." in key}
    assert {key: after[key] for key in kept} == kept
    said = [out, err, shown, *(content.decode("latin-1") for content in after.values())]
    assert not any(SECRET in text for text in said)


def test_a_dataset_that_was_moved_away_is_gone_and_not_grown(bucket, settings, capsys):
    """As whoever archives originals away leaves it: object storage has no empty folders."""
    add(bucket, "a.zarr", 1)
    add(bucket, "b.zarr", 2)
    assert main(["nightly", "--config", str(settings)]) == 0
    objects.folder(f"s3://{bucket}/archive/a.zarr").remove("")
    capsys.readouterr()
    for arguments in (["--config", str(settings)], [f"s3://{bucket}/stores/"]):
        assert main(["status", *arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["last_run_state"] == "done"
        assert [(e["dataset"], e["state"]) for e in found["datasets"]] == [
            ("a.zarr", "gone"),
            ("b.zarr", "stored"),
        ]
    objects.folder(f"s3://{bucket}/archive/b.zarr").remove("")
    assert main(["nightly", "--config", str(settings)]) == 2
    assert "the catalogue knows 2 (a.zarr, b.zarr)" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_said_not_to_be(bucket, settings, capsys):
    settings.write_text(settings.read_text().replace(bucket, "no-such-bucket"))
    assert main(["nightly", "--config", str(settings)]) == 2
    assert "s3://no-such-bucket: there is no such bucket" in capsys.readouterr().err


def test_a_stored_dataset_takes_few_requests(server, bucket, settings, monkeypatch):
    """Each file is asked for once, but for what holds values of the dataset and for the root."""
    for number in range(2):
        add(bucket, f"{number}.zarr", number)
    settings.write_text(settings.read_text().replace("0.0", "0.01"))
    with proxied(server) as proxy, fresh_connections():
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert main(["nightly", "--config", str(settings)]) == 0
        made = Counter((method, path) for method, path, _ in proxy.requests)
    assert made.total() <= 2 * 64 + 12
    again = {path for (_, path), times in made.items() if times > 1 and "/lock" not in path}
    assert all(
        "/c/" in path
        if "/archive/" in path
        else re.search(r"\.romzarr/zarr|list-type|\.json$", path)
        for path in again
    )


def test_small_datasets_are_worked_on_side_by_side(bucket, settings):
    add(bucket, "a.zarr", 1)
    config = load_config(settings)
    (job,) = plan_run(config).jobs
    few = [job] * (team.FEWEST_REMOTE - 1)
    assert team.FEWEST_REMOTE < team.FEWEST
    assert not team.crew_for(few, config, "text").takes(job)
    assert team.crew_for([*few, job], config, "text").takes(job)


def test_an_address_that_nobody_answers_is_a_run_that_cannot_be(settings, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.01)
    with fresh_connections():
        assert main(["nightly", "--config", str(settings)]) == 2
    err = capsys.readouterr().err
    assert "cannot create the lock s3://" in err
    assert "check the network, the endpoint (AWS_ENDPOINT_URL)" in err


def test_a_dataset_has_the_stamp_that_the_listing_of_its_archive_gives(bucket):
    """Also one that is a single object; a name that another begins with is not it."""
    add(bucket, "a.zarr", 1)
    add(bucket, "a.zarr.old", 1)
    root = f"s3://{bucket}/archive"
    objects.folder(root).write("b.nc", b"content")
    found = find_datasets(root, "*.*")
    assert [each.name for each in found] == ["a.zarr", "a.zarr.old", "b.nc"]
    assert [stamp_of(each.location) for each in found] == [each.stamp for each in found]
    assert found[2].nbytes == 7


# --- the lease ----------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.8)


def test_of_many_that_want_the_lease_one_has_it(bucket, short):
    """All at once, and again once it is free; renewed meanwhile for twice its length."""
    outcomes = []

    def want():
        try:
            with lock.locked(f"s3://{bucket}/stores"):
                outcomes.append("held")
                time.sleep(1.6)
        except CannotRunError as error:
            outcomes.append(str(error))

    for rounds in (1, 2):
        threads = [threading.Thread(target=want) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("held") == rounds
    assert sum("another run is in progress (process" in text for text in outcomes) == 6


def test_the_lease_of_a_crashed_run_lapses_and_the_crashed_run_notices_if_it_lives(bucket, short):
    url = f"s3://{bucket}/stores/catalogue/lock"
    asleep = lock.Lease(url)
    asleep.acquire()  # and never renews it
    began = time.monotonic()
    with lock.locked(f"s3://{bucket}/stores"):
        assert time.monotonic() - began >= 0.8
        assert not asleep.renew()


def test_a_lease_given_back_while_it_is_watched_is_had(bucket, short):
    url = f"s3://{bucket}/stores/catalogue/lock"
    other, watching = lock.Lease(url), threading.Event()
    other.acquire()
    real = lock.Lease._get

    def read(self):
        found = real(self)
        if self is not other:
            watching.set()
        return found

    def give_back():
        watching.wait(10)
        other.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock.Lease, "_get", read)
        thread = threading.Thread(target=give_back)
        thread.start()
        with lock.locked(f"s3://{bucket}/stores"):
            pass
        thread.join()
    assert lock.is_held(f"s3://{bucket}/stores") is False


def test_whoever_asks_knows_whether_the_holder_of_a_lease_is_alive(bucket, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 6.0)
    stores = f"s3://{bucket}/stores"
    assert lock.is_held(stores) is False
    with lock.locked(stores):
        assert lock.is_held(stores) is True
    lock.Lease(f"{stores}/catalogue/lock").acquire()  # and never renews it
    assert lock.is_held(stores) is False


def test_a_lease_that_was_given_back_is_had_at_once(bucket):
    for _ in range(2):
        began = time.monotonic()
        with lock.locked(f"s3://{bucket}/stores"):
            assert time.monotonic() - began < lock.LEASE_SECONDS / 4
