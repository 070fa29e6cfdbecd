"""The other end of a nursery: starts it, has it fork and bury workers, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labelers import errors, wire
from labelers.discovery import LabelerSpec
from labelers.errors import BrokenPlugin, LabelerError
from labelers.nursery import BURY, FORK, Order
from labelers.types import Needs

BUILD_S = 120.0
"""Building and rehearsing: a labeler may load a dictionary or a model's tokenizer."""
FORK_S = 30.0
NURSERIES = 3
"""Times that a nursery may be ended from outside with nothing done between before the labeler is given up (own)."""
START = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from labelers.nursery import main; main()"
KEPT = ("HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV")
"""What a nursery keeps of the environment: no token and no key. A labeler with needs.network keeps it all."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Built:
    """What a nursery says of the labeler that it built."""

    name: str
    version: str
    needs: Needs
    pairwise: bool
    symmetric: bool
    place: str
    has_answered: bool
    uses_scratch: bool
    namespaces: str = ""


class Nursery:
    """A process that has a labeler and forks confined workers of it, one at a time. Ended from outside, it is started again."""

    def __init__(self, spec: LabelerSpec, scratch: Path, memory_gb: float, environment: dict[str, str]) -> None:
        self._order = Order(spec, scratch, memory_gb, os.getpid())
        self._environment = environment
        self._life = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes]
        self._control: wire.Channel
        self.channel: wire.Channel
        self.worker = 0
        self.built = self._start()

    @classmethod
    @contextlib.contextmanager
    def started(
        cls, spec: LabelerSpec, scratch: Path, memory_gb: float, *, whole_environment: bool = False
    ) -> Iterator[Nursery]:
        """A nursery that has built the labeler of `spec`; it ends with the context.

        Args:
            whole_environment: it keeps every variable, tokens too, for a labeler that opens connections.

        Raises:
            LabelerError: as building the labeler here would.
        """
        nursery = cls(spec, scratch, memory_gb, dict(os.environ) if whole_environment else _clean())
        with nursery._life:
            try:
                yield nursery
            finally:
                if nursery.worker:
                    nursery.bury()

    def fork(self) -> dict[str, str]:
        """Has a new worker forked and confined. Which of its layers are lost: layer -> why, or empty text.

        Raises:
            LabelerError: the worker cannot be started, or the nursery is ended again and again.
        """
        for _ in range(NURSERIES):
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    socket.send_fds(self._control.end, [FORK], [theirs.fileno()])
                _, self.worker = _told(self._control, time.monotonic() + FORK_S)
                break
            except (wire.Closed, OSError):
                ours.close()
                self._restart()
        else:
            raise self.died()
        self.channel = wire.Channel(ours)
        try:
            _, layers = wire.read_message(self.channel.receive(1 << 16, time.monotonic() + FORK_S))
        except (wire.Closed, TimeoutError, ValueError) as error:
            if self.bury() is None:  # the nursery went, and the worker with it
                return self.fork()
            raise LabelerError(f"{self.built.name}: its worker could not be started: {error!r}") from error
        return dict(layers)

    def bury(self) -> int | None:
        """Ends the worker; its wait status, which says how it ended if it did so by itself. None: its nursery was ended from
        outside, and it with it; the next `fork` starts another."""
        self.channel.end.close()
        self.worker = 0
        try:
            self._control.end.sendall(BURY)
            _, status = _told(self._control, time.monotonic() + FORK_S)
        except (wire.Closed, OSError):
            return None
        return int(status)

    def died(self) -> LabelerError:
        """What to say of a nursery that does not live."""
        return LabelerError(
            f"the process that holds labeler {self.built.name} was ended from outside {NURSERIES} times in a row",
            hint="see whether the machine ran out of memory (dmesg); the same command goes on from there",
        )

    def _start(self) -> Built:
        """Starts the process and has it build the labeler. Raises: LabelerError."""
        for warm in (True, False):  # a labeler that does not survive its own examples is tried without them
            self._order = replace(self._order, warm=self._order.warm and warm)
            try:
                self._process, control = self._life.enter_context(_process(self._environment))
                self._control = wire.Channel(control)
                return _build(self._control, self._order)
            except (wire.Closed, TimeoutError) as error:
                self._life.close()
                if not warm:
                    how = "it took too long" if isinstance(error, TimeoutError) else "its process died"
                    raise BrokenPlugin(f"it could not be made: {how}", where=self._order.spec.use) from error
            except BaseException:
                self._life.close()
                raise
        raise AssertionError("the second try returns or raises")

    def _restart(self) -> None:
        """Another process with the same labeler. Raises: LabelerError, also where the labeler has become another meanwhile."""
        self._life.close()
        built = self._start()
        if (built.name, built.version, built.needs) != (self.built.name, self.built.version, self.built.needs):
            raise LabelerError(
                f"labeler {self.built.name} has changed while it was at work; hint: run the same command again"
            )

    def rss(self) -> int:
        """Bytes of memory that the worker holds; 0 where that cannot be read."""
        try:
            pages = Path(f"/proc/{self.worker}/statm").read_bytes().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * resource.getpagesize()


@contextlib.contextmanager
def _process(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    ours, theirs = socket.socketpair()
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", START, str(theirs.fileno()), path],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], start_new_session=True, env={**environment, **ONE_THREAD},
            )  # fmt: skip
        try:
            yield process, ours
        finally:
            process.kill()
            process.wait()


def _clean() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT if name in os.environ}


def _build(channel: wire.Channel, order: Order) -> Built:
    """Raises: LabelerError; Closed, TimeoutError."""
    deadline = time.monotonic() + BUILD_S
    channel.send(pickle.dumps(order), deadline)
    kind, *parts = _told(channel, deadline)
    if kind == "error":
        raise as_error(parts)
    facts, namespaces = parts
    needs = facts.pop("needs")
    needs = Needs(**{**needs, "programs": tuple(needs["programs"])})
    return Built(**facts, needs=needs, namespaces=namespaces)


def _told(channel: wire.Channel, deadline: float) -> list[Any]:
    return wire.read_message(channel.receive(1 << 20, deadline))


def as_error(parts: Sequence[Any]) -> LabelerError:
    """A LabelerError from its class's name and its three texts."""
    name, what, where, hint = map(str, parts)
    kind = getattr(errors, name, LabelerError)
    known = isinstance(kind, type) and issubclass(kind, LabelerError)
    error: LabelerError = (kind if known else LabelerError)(what, where=where, hint=hint)
    return error
