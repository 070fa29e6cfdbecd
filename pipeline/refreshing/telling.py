"""What a schedule tells others: metrics for Prometheus, and a webhook that hears of failures and of new versions."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from pipeline.errors import ConfigError, EnvironmentLacks
from pipeline.observing.logs import say

TIMEOUT_S = 10.0
HEALTH = "/health"


@dataclass
class Telling:
    """Takes the outcome of each refresh and tells whoever was named.

    Args:
        run: the run's name.
        webhook: a URL that is sent JSON by POST when a refresh fails or makes a version. It is never printed:
            such URLs are secrets.
    """

    run: str
    webhook: str | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise ConfigError("--webhook is no URL; hint: https://...")
        self._health: dict[str, Any] = {"run": self.run, "ok": True, "last_exit_code": None, "last_end": None}
        self._ended = Counter("refreshes", "Refreshes that ended.", ["exit_code"], registry=self.registry)
        self._last = Gauge(
            "refresh_last_end_seconds", "When one ended last, Unix time.", ["ok"], registry=self.registry
        )
        self._pairs = Gauge("dataset_pairs", "Pairs in the current version.", registry=self.registry)
        self._version = Gauge("dataset_version", "The current version.", registry=self.registry)

    def serve(self, port: int) -> int:
        """Answers GET with the metrics on this port of all addresses (0 takes a free one), and /health with JSON: 200, or 503
        while the last refresh failed. Returns the port."""
        metrics = make_wsgi_app(self.registry)

        def answer(environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
            return self._say_health(respond) if environ["PATH_INFO"] == HEALTH else metrics(environ, respond)

        try:
            server = make_server("", port, answer, ThreadingWSGIServer, _Quiet)
        except OSError as error:
            raise EnvironmentLacks(f"--port {port}: {error.strerror}; hint: take another one") from error
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_port)

    def _say_health(self, respond: Callable[..., Any]) -> Iterable[bytes]:
        said = self._health
        respond("200 OK" if said["ok"] else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps(said).encode()]

    def hear(self, code: int, said: str) -> None:
        """Takes the exit code of a refresh and what it printed with --json."""
        outcome = _outcome(said)
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        self._health = {**self._health, "ok": code == 0, "last_exit_code": code, "last_end": ended}
        self._ended.labels(str(code)).inc()
        self._last.labels(str(code == 0).lower()).set(time.time())
        if code == 0:
            self._pairs.set(outcome.get("pairs") or 0)
            self._version.set(outcome.get("version") or 0)
        if self.webhook and (code or outcome.get("is_new")):
            told = {name: outcome.get(name) for name in ("version", "is_new", "pairs")}
            self._post({"run": self.run, "exit_code": code, **told})

    def _post(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        request = urllib.request.Request(str(self.webhook), body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
        except (urllib.error.URLError, OSError, ValueError) as error:
            say(f"warning: the webhook was not told: {type(error).__name__}")


class _Quiet(WSGIRequestHandler):
    """Serves, and says nothing of it."""

    def log_message(self, *_: Any) -> None:
        pass


def _outcome(said: str) -> dict[str, Any]:
    try:
        found = json.loads(said)
    except ValueError:  # a refresh that failed early printed nothing
        return {}
    return found if isinstance(found, dict) else {}
