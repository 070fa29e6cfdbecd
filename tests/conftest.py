"""What every test may rely on: no network, no hub, no writes into the user's caches."""

from __future__ import annotations

import functools
import ipaddress
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.s3 import S3, serving

_CACHE = tempfile.TemporaryDirectory(prefix="tests-cache-")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_CACHE=_CACHE.name,
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    VLLM_NO_USAGE_STATS="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs begin so, and what they start inherits it: commands under test must hear Ctrl-C all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    _CACHE.cleanup()


@functools.cache
def gpu_answers() -> bool:
    """Whether `nvidia-smi -L` names a GPU; asked without importing torch."""
    try:
        reply = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return reply.returncode == 0 and "GPU" in reply.stdout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests and not gpu_answers():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; `nvidia-smi -L` names none"))


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket's path
    host = str(address[0])
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A real S3 server with the bucket `runs`; every process that a test starts finds it."""
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere but this machine fails the test that opens it."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_local(address):
            raise RuntimeError(f"a test opened a connection to {address}; hint: tests run without a network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
