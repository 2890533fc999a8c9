"""A real Dask Gateway on loopback starts the workers, and stops them at the end."""

import gc
import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import dask
import pytest
from threadpoolctl import threadpool_info

from romzarr.config import ClusterConfig
from romzarr_flows.cluster import connect
from romzarr_flows.clusters import ClusterError

ROOT = Path(__file__).parents[2]
CONFIGURATION = """\
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.DaskGateway.address = "127.0.0.1:{0}"
c.Proxy.address = "127.0.0.1:{1}"
c.Proxy.api_url = "http://127.0.0.1:{2}/api/v1/routes"
c.UnsafeLocalBackend.clusters_directory = "{folder}"
c.ClusterConfig.worker_memory = "1 G"
c.ClusterConfig.scheduler_cmd = ["{scripts}/dask", "scheduler"]
c.ClusterConfig.worker_cmd = ["{scripts}/dask", "worker"]
c.ClusterConfig.environment = {{"PYTHONPATH": "{root}"}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    found = importlib.util.find_spec("dask_gateway_server")
    if found is None or not (Path(found.origin).parent / "proxy" / "dask-gateway-proxy").exists():
        pytest.skip("dask-gateway-server has no proxy for this machine")
    folder = tmp_path_factory.mktemp("gateway")
    ports = free_ports(3)
    places = {"folder": folder, "scripts": Path(sys.executable).parent, "root": ROOT}
    (folder / "config.py").write_text(CONFIGURATION.format(*ports, **places))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "dask_gateway_server", "-f", str(folder / "config.py")],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{ports[1]}"
    try:
        wait_until_it_answers(f"{url}/api/health")
        yield url
    finally:
        server.terminate()
        server.wait(20)


def free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def wait_until_it_answers(url: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nobody answers at {url}")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_gateway_starts_workers_and_stops_them(gateway):
    settings = ClusterConfig(kind="gateway", gateway=gateway, workers=1)
    with connect(settings) as workers:
        assert workers.description == f"1 workers of {gateway}"
        assert dask.compute(dask.delayed(sum)([1, 2])) == (3,)
        found = [each for info in workers.client.run(threadpool_info).values() for each in info]
        assert {each["num_threads"] for each in found if each["user_api"] == "blas"} == {1}
    del workers
    # A client that was closed closes again as it is collected, and complains.
    gc.collect()


# A client that could not connect closes as it is collected, and complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("options", "words"), [({"cores": 2}, r"cores"), ("none", r"no cluster at http://127.0.0.1:9;")]
)
def test_what_a_gateway_refuses_is_said(gateway, options, words):
    address = gateway if options != "none" else "http://127.0.0.1:9"
    settings = ClusterConfig(kind="gateway", gateway=address, workers=1, options=options)
    with pytest.raises(ClusterError, match=words), connect(settings):
        pass
