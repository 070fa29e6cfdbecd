"""What a schedule tells others: metrics for Prometheus, and a webhook that hears of failures and of new versions."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from pipeline.console import say
from pipeline.errors import ConfigError, EnvironmentLacks

TIMEOUT_S = 10.0


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
        self._ended = Counter("refreshes", "Refreshes that ended.", ["exit_code"], registry=self.registry)
        self._last = Gauge(
            "refresh_last_end_seconds", "When one ended last, Unix time.", ["ok"], registry=self.registry
        )
        self._pairs = Gauge("dataset_pairs", "Pairs in the current version.", registry=self.registry)
        self._version = Gauge("dataset_version", "The current version.", registry=self.registry)

    def serve(self, port: int) -> int:
        """Answers GET with the metrics on this port of all addresses (0 takes a free one). Returns the port."""
        try:
            server, _ = start_http_server(port, registry=self.registry)
        except OSError as error:
            raise EnvironmentLacks(f"--port {port}: {error.strerror}; hint: take another one") from error
        return int(server.server_port)

    def hear(self, code: int, said: str) -> None:
        """Takes the exit code of a refresh and what it printed with --json."""
        outcome = _outcome(said)
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


def _outcome(said: str) -> dict[str, Any]:
    try:
        found = json.loads(said)
    except ValueError:  # a refresh that failed early printed nothing
        return {}
    return found if isinstance(found, dict) else {}
