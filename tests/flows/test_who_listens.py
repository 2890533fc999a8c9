"""Who can reach the schedulers and workers that run here: this machine, or who has certificates."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

import dask
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import LocalCluster

from romzarr.config import ClusterConfig
from romzarr.errors import ConfigError
from romzarr_flows.cluster import connect
from romzarr_flows.clusters import ClusterError, address, slurm
from romzarr_flows.clusters.security import security_of


def listening() -> set[str]:
    """Addresses at which this process and those below it listen."""
    this = psutil.Process()
    return {
        found.laddr.ip
        for process in (this, *this.children(recursive=True))
        for found in process.net_connections("inet")
        if found.status == psutil.CONN_LISTEN
    }


def test_threads_listen_nowhere():
    before = listening()
    with connect(ClusterConfig(workers=2)):
        dask.delayed(sum)([1, 2]).compute()
        assert listening() == before


@pytest.mark.cluster
def test_workers_on_this_machine_listen_on_loopback_only():
    with connect(ClusterConfig(kind="local", workers=2, memory_limit="1 GB")):
        found = listening()
    assert found
    assert all(ipaddress.ip_address(each).is_loopback for each in found), found


def test_the_scheduler_of_slurm_jobs_listens_on_one_address_and_its_dashboard_on_loopback():
    settings = ClusterConfig(kind="slurm", workers=1, memory_limit="1 GB")
    options = slurm.scheduler_options(settings)
    assert not ipaddress.ip_address(options["host"]).is_unspecified
    assert options["dashboard_address"].startswith("127.0.0.1:")
    chosen = ClusterConfig(kind="slurm", workers=1, memory_limit="1 GB", interface="lo")
    assert slurm.scheduler_options(chosen)["interface"] == "lo"


# --- certificates ----------------------------------------------------------------------------


def signed(name: str, key, issuer: str, by, authority: bool) -> bytes:
    """A certificate as PEM."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def certificates(folder: Path) -> dict[str, str]:
    """An authority, and a certificate that it has signed, as settings name them."""
    folder.mkdir()
    ours, theirs = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    key = ours.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "ca.pem").write_bytes(signed("ca", theirs, "ca", theirs, True))
    (folder / "cert.pem").write_bytes(signed("romzarr", ours, "ca", theirs, False))
    (folder / "key.pem").write_bytes(key)
    names = {"ca_file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    return {setting: str(folder / name) for setting, name in names.items()}


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> dict[str, str]:
    return certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def encrypted(tls):
    """A scheduler that lets in only who has a certificate, with one worker."""
    settings = ClusterConfig(kind="tls://127.0.0.1:9", tls=tls)
    with LocalCluster(
        n_workers=1,
        processes=False,
        protocol="tls",
        security=security_of(settings),
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
    ) as cluster:
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        yield cluster.scheduler_address


@pytest.mark.cluster
def test_who_has_a_certificate_is_let_in(encrypted, tls):
    with connect(ClusterConfig(kind=encrypted, tls=tls)) as workers:
        assert dask.compute(dask.delayed(sum)([1, 2])) == (3,)
        assert workers.client.scheduler.address == encrypted


@pytest.mark.cluster
@pytest.mark.parametrize("who", ["without", "of another authority", "in the clear"])
def test_who_has_none_is_refused(encrypted, tmp_path, monkeypatch, who):
    monkeypatch.setattr(address, "PATIENCE_SECONDS", 2)
    given = {} if who != "of another authority" else {"tls": certificates(tmp_path / "others")}
    place = encrypted.replace("tls://", "tcp://") if who == "in the clear" else encrypted
    with (
        pytest.raises(ClusterError, match="no Dask scheduler answered at t"),
        connect(ClusterConfig(kind=place, **given)),
    ):
        pass


@pytest.mark.parametrize("kind", ["tls://127.0.0.1:9", "slurm"])
@pytest.mark.parametrize("key", ["ca_file", "cert", "key"])
def test_a_file_that_is_missing_is_named_before_anything_starts(tls, tmp_path, kind, key):
    wrong = tls | {key: str(tmp_path / "absent.pem")}
    size = {"workers": 1, "memory_limit": "1 GB"} if kind == "slurm" else {}
    settings = ClusterConfig(kind=kind, tls=wrong, **size)
    with pytest.raises(ConfigError, match=rf"cluster\.tls\.{key}: found .*absent\.pem"):
        security_of(settings)
    if kind != "slurm":
        with pytest.raises(ConfigError), connect(settings):
            pass
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_no_certificate_is_said_to_be_none(tls, tmp_path):
    (tmp_path / "x.pem").write_text("hello")
    settings = ClusterConfig(kind="tls://127.0.0.1:9", tls=tls | {"cert": str(tmp_path / "x.pem")})
    with pytest.raises(ConfigError, match="OpenSSL refuses"):
        security_of(settings)


@pytest.mark.parametrize(
    ("kind", "found", "words"),
    [
        ("tcp://127.0.0.1:9", {"ca_file": "a", "cert": "b", "key": "c"}, "not encrypted"),
        ("tls://127.0.0.1:9", {"ca_file": "a", "cert": "b"}, "allowed is 'none' or a mapping"),
        ("threads", {"ca_file": "a", "cert": "b", "key": "c"}, "takes workers"),
    ],
)
def test_settings_of_tls_that_make_no_sense_are_refused(kind, found, words):
    with pytest.raises(ConfigError, match=words):
        ClusterConfig(kind=kind, tls=found)


def test_jobs_of_slurm_are_given_the_certificates(tls, tmp_path):
    settings = ClusterConfig(kind="slurm", workers=1, memory_limit="1 GB", tls=tls, interface="lo")
    with slurm._cluster(settings, tmp_path, security_of(settings)) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        assert all(ipaddress.ip_address(each).is_loopback for each in listening())
    assert f"--tls-ca-file {tls['ca_file']}" in script
    assert f"--tls-key {tls['key']}" in script
    assert "tls://127.0.0.1:" in script
