"""What a schedule tells: metrics over HTTP, and a webhook on loopback."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline.errors import ConfigError
from pipeline.refreshing.telling import Telling

NEW = json.dumps({"version": 3, "is_new": True, "pairs": 120})
SAME = json.dumps({"version": 3, "is_new": False, "pairs": 120})


@pytest.fixture
def hook():
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret", heard
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_webhook_hears_of_new_versions_and_of_failures_and_of_nothing_else(hook):
    url, heard = hook
    telling = Telling("mine", url)
    for code, said in ((0, NEW), (0, SAME), (1, "")):
        telling.hear(code, said)
    assert heard == [
        {"run": "mine", "exit_code": 0, "version": 3, "is_new": True, "pairs": 120},
        {"run": "mine", "exit_code": 1, "version": None, "is_new": None, "pairs": None},
    ]


def test_a_webhook_that_does_not_answer_stops_nothing_and_its_address_is_never_said(capsys):
    Telling("mine", "http://127.0.0.1:9/secret").hear(1, "")
    said = capsys.readouterr().err
    assert "the webhook was not told" in said
    assert "secret" not in said


def test_a_webhook_that_is_no_url_is_refused():
    with pytest.raises(ConfigError, match="hint"):
        Telling("mine", "file:///etc/passwd")


def test_the_metrics_are_served():
    telling = Telling("mine")
    telling.hear(0, NEW)
    telling.hear(1, "")
    with urllib.request.urlopen(f"http://127.0.0.1:{telling.serve(0)}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    assert 'refreshes_total{exit_code="0"} 1.0' in lines
    assert 'refreshes_total{exit_code="1"} 1.0' in lines
    assert "dataset_version 3.0" in lines
    assert "dataset_pairs 120.0" in lines


def test_health_is_good_until_a_refresh_fails_and_again_after_one_that_did_not():
    telling = Telling("mine")
    url = f"http://127.0.0.1:{telling.serve(0)}/health"

    def asked() -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    assert asked() == (200, {"run": "mine", "ok": True, "last_exit_code": None, "last_end": None})
    telling.hear(1, "")
    status, said = asked()
    assert (status, said["ok"], said["last_exit_code"]) == (503, False, 1)
    telling.hear(0, SAME)
    assert asked()[0] == 200
