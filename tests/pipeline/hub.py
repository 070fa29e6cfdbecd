"""A small Hub on loopback: repositories that hold files, changed by whole commits, and tags."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Takes what huggingface_hub sends for a dataset repository; `refuses` answers commits with 403."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: list[dict[str, bytes]] = []
        self.created: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def files(self) -> dict[str, bytes]:
        """What the main branch holds."""
        return self.commits[-1] if self.commits else {}

    def commit(self, lines: list[dict[str, Any]]) -> str:
        """Applies a whole commit at once."""
        files = dict(self.files)
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        self.commits.append(files)
        return f"{len(self.commits):040d}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        files = [{"type": "file", "path": p, "size": len(b), "oid": "0" * 40} for p, b in self.server.files.items()]
        self._reply(200, files if "/tree/" in self.path else {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self._reply(200, {"url": f"{self.server.url}/datasets/me/pairs"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self._reply(
                200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        elif "/commit/" in self.path and self.server.refuses:
            self._reply(403, {"error": "you may not write here"})
        elif "/commit/" in self.path:
            oid = self.server.commit([json.loads(line) for line in body.splitlines()])
            url = f"{self.server.url}/datasets/me/pairs/commit/{oid}"
            self._reply(200, {"commitUrl": url, "commitOid": oid, "hookOutput": "", "success": True})
        elif "/tag/" in self.path:
            self.server.tags[json.loads(body)["tag"]] = self.path.rpartition("/")[2]
            self._reply(200, {})
        else:
            self._reply(200, {})

    def _reply(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
