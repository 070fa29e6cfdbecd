"""A run's numbers for Prometheus: in a file for the node exporter's textfile collector, or served on a port."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, start_http_server, write_to_textfile

from pipeline.errors import EnvironmentLacks
from pipeline.observing.snapshot import Snapshot

STATES = ("running", "ended", "failed", "interrupted")


class Metrics:
    """Takes snapshots of one run.

    Args:
        run: its name, a label of every number.
        file: written anew with each snapshot, in one step.
        port: serves them on all addresses while the process lives; 0 takes a free one.

    Raises:
        EnvironmentLacks: the port is taken, or the file's folder cannot be written.
    """

    def __init__(self, run: str, file: Path | None = None, port: int | None = None) -> None:
        self._run, self._file = run, file
        self.registry = CollectorRegistry()
        self._shards = self._gauge(
            "pipeline_shards", "Shards that are done, failed, or wanted in all.", "stage", "state"
        )
        self._prompts = self._gauge("pipeline_prompts", "Prompts of this start: sampled, and all.", "state")
        self._tokens = self._gauge("pipeline_tokens", "Tokens that this start has generated.")
        self._rate = self._gauge("pipeline_per_second", "Growth over the last minute.", "of")
        self._eta = self._gauge("pipeline_eta_seconds", "Until the end, at this pace; -1 while that is not known.")
        self._spent = self._gauge(
            "pipeline_spent", "By all starts: judges' requests and tokens, sources' tokens, money.", "of"
        )
        self._state = self._gauge("pipeline_state", "1 for the state that the run is in.", "state")
        self._updated = self._gauge("pipeline_updated_seconds", "When these numbers were taken, Unix time.")
        self.port = self._serve(port) if port is not None else None
        if file:
            self._require(file)

    def __call__(self, snapshot: Snapshot) -> None:
        """Takes the numbers over."""
        for stage, (done, n_all) in snapshot.shards.items():
            self._shards.labels(self._run, stage, "done").set(done)
            self._shards.labels(self._run, stage, "all").set(n_all)
            failed = sum(name.startswith(f"{stage}/") for name in snapshot.failed)
            self._shards.labels(self._run, stage, "failed").set(failed)
        for state, n in zip(("sampled", "all"), snapshot.prompts, strict=True):
            self._prompts.labels(self._run, state).set(n)
        self._tokens.labels(self._run).set(snapshot.tokens)
        for of in ("prompts", "tokens", "shards"):
            self._rate.labels(self._run, of).set(getattr(snapshot, f"{of}_per_s"))
        self._eta.labels(self._run).set(-1 if snapshot.eta_s is None else snapshot.eta_s)
        for of in ("requests", "tokens", "sampled_tokens", "money"):
            self._spent.labels(self._run, of).set(getattr(snapshot.spent, of))
        for state in STATES:
            self._state.labels(self._run, state).set(state == snapshot.state)
        self._updated.labels(self._run).set(time.time())
        if self._file:
            with suppress(OSError):  # it could be written when the run began, and no number is worth a run
                write_to_textfile(str(self._file), self.registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(name, says, ["run", *labels], registry=self.registry)

    def _require(self, file: Path) -> None:
        try:
            write_to_textfile(str(file), self.registry)
        except OSError as error:
            raise EnvironmentLacks(f"--metrics-file {file}: {error.strerror}; hint: a folder that exists") from error

    def _serve(self, port: int) -> int:
        try:
            server, _ = start_http_server(port, registry=self.registry)
        except OSError as error:
            raise EnvironmentLacks(f"--metrics-port {port}: {error.strerror}; hint: take another one") from error
        return int(server.server_port)
