"""Whoever else is on this machine reaches the ports of a run's own cluster, and can do nothing there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from wsi_stain.executor import DaskExecutor, ExecutorConfig

STRANGER = """
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for port in map(int, sys.argv[1:]):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        with context.wrap_socket(plain) as private:
            private.sendall(bytes(64))
            print(port, private.recv(1))
"""
"""Speaks TLS to each port without a certificate of its own, and fails at the first that lets it."""

DASK_STRANGER = """
import sys
from distributed import Client
from distributed.security import Security
address, *own = sys.argv[1:]
try:
    Client(address, security=Security.temporary() if own else None, timeout=5)
except (OSError, TypeError) as error:  # TypeError: a TLS address without any certificate
    print("refused" if isinstance(error, OSError) or "TLS" in str(error) else error)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    with DaskExecutor(ExecutorConfig(workers=1)) as opened:
        yield opened


def ports(cluster: DaskExecutor) -> list[int]:
    """Ports of the scheduler, and of each worker and its nanny."""
    workers = cluster._known_workers()
    addresses = [cluster.scheduler_address, *workers, *(worker["nanny"] for worker in workers.values())]
    return [int(address.rpartition(":")[2]) for address in addresses]


def interpreter_of_all() -> str:
    """Return a Python that every user may run; these tests' own may lie where others may not look."""
    if python := shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin"):
        return python
    pytest.skip("no Python that another user may run")


@pytest.mark.parametrize("user", [None, "nobody"])
def test_no_port_answers_a_process_without_the_run_s_certificate(cluster: DaskExecutor, user: str | None) -> None:
    if user and os.getuid():
        pytest.skip("needs root, to become another user")
    python = interpreter_of_all() if user else sys.executable
    assert len(ports(cluster)) == 3
    for port in ports(cluster):
        command = [python, "-I", "-c", STRANGER, str(port)]
        ended = subprocess.run(command, user=user, capture_output=True, text=True, cwd="/", check=False)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "SSL" in ended.stderr or "ConnectionResetError" in ended.stderr


@pytest.mark.parametrize("protocol", ["tls, none given", "tcp", "tls, another's"])
def test_dask_s_own_client_is_refused_without_that_certificate_or_with_another(
    cluster: DaskExecutor, protocol: str
) -> None:
    address = cluster.scheduler_address
    assert address.startswith("tls://127.0.0.1:")
    if protocol == "tcp":
        address = address.replace("tls://", "tcp://")
    command = [sys.executable, "-c", DASK_STRANGER, address, *(["own"] if protocol.endswith("another's") else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "refused\n"), ended.stderr
