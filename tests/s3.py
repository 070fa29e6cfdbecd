"""A real S3 server on the loopback address (moto's), in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

SERVE = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(1e6)
"""
SECRET = "canary-secret-7f3a"
"""The secret key that tests ask with: it must be written nowhere."""
IDENTITY = {"AWS_ACCESS_KEY_ID": "canary-key-51cc", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class S3:
    """The server, with the bucket `runs`."""

    url: str

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to find the server."""
        return {**IDENTITY, "AWS_ENDPOINT_URL": self.url}

    def refuse(self, everybody: bool) -> None:
        """From now on, lets nobody in (or everybody again)."""
        self.send("POST", "/moto-api/reset-auth", b"0" if everybody else b"inf")

    def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request to the server, signed by nobody."""
        request = Request(self.url + path, data=body, method=method, headers={"Content-Type": "text/plain"})
        with urlopen(request, timeout=30) as answer:
            content: bytes = answer.read()
            return content


@contextmanager
def serving() -> Iterator[S3]:
    """Runs the server. This process, and those that it starts, find it by their environment."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    server = S3(f"http://127.0.0.1:{process.stdout.readline().strip()}")
    server.send("PUT", "/runs")
    before = {name: os.environ.get(name) for name in server.env}
    os.environ.update(server.env)
    try:
        yield server
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for name, value in before.items():
            os.environ.update({name: value}) if value is not None else os.environ.pop(name, None)


def canaries_in(folder: Path) -> list[str]:
    """The objects or files below a folder that hold the identity that tests ask with."""
    words = [IDENTITY["AWS_ACCESS_KEY_ID"].encode(), SECRET.encode()]
    return [
        str(path) for path in folder.rglob("*") if path.is_file() and any(word in path.read_bytes() for word in words)
    ]
