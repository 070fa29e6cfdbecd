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
from dataclasses import dataclass
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
    """A process that has a labeler and forks confined workers of it, one at a time."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, built: Built) -> None:
        self._process, self._control = process, wire.Channel(control)
        self.built = built
        self.worker = 0
        self.channel: wire.Channel

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
        with contextlib.ExitStack() as stack:
            for warm in (True, False):  # a labeler that does not survive its own examples is tried without them
                try:
                    process, control = stack.enter_context(
                        _process(dict(os.environ) if whole_environment else _clean())
                    )
                    built = _build(control, Order(spec, scratch, memory_gb, os.getpid(), warm))
                    break
                except (wire.Closed, TimeoutError) as error:
                    stack.close()
                    if not warm:
                        how = "it took too long" if isinstance(error, TimeoutError) else "its process died"
                        raise BrokenPlugin(f"it could not be made: {how}", where=spec.use) from error
            nursery = cls(process, control, built)
            stack.callback(nursery._end)
            yield nursery

    def fork(self) -> dict[str, str]:
        """Has a new worker forked and confined. Which of its layers are lost: layer -> why, or empty text."""
        ours, theirs = socket.socketpair()
        deadline = time.monotonic() + FORK_S
        try:
            with theirs:
                socket.send_fds(self._control.end, [FORK], [theirs.fileno()])
            _, self.worker = _told(self._control, deadline)
        except (wire.Closed, OSError) as error:
            ours.close()
            raise self._died() from error
        self.channel = wire.Channel(ours)
        try:
            _, layers = wire.read_message(self.channel.receive(1 << 16, deadline))
        except (wire.Closed, TimeoutError, ValueError) as error:
            self.bury()
            raise LabelerError(f"{self.built.name}: its worker could not be started: {error!r}") from error
        return dict(layers)

    def bury(self) -> int:
        """Ends the worker; its wait status, which says how it ended if it did so by itself."""
        self.channel.end.close()
        self.worker = 0
        try:
            self._control.end.sendall(BURY)
            _, status = _told(self._control, time.monotonic() + FORK_S)
        except (wire.Closed, OSError) as error:
            raise self._died() from error
        return int(status)

    def _died(self) -> LabelerError:
        return LabelerError(
            f"the process that holds labeler {self.built.name} was ended from outside",
            hint="see whether the machine ran out of memory (dmesg); the same command goes on from there",
        )

    def rss(self) -> int:
        """Bytes of memory that the worker holds; 0 where that cannot be read."""
        try:
            pages = Path(f"/proc/{self.worker}/statm").read_bytes().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * resource.getpagesize()

    def _end(self) -> None:
        if self.worker:
            with contextlib.suppress(LabelerError):
                self.bury()


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


def _build(control: socket.socket, order: Order) -> Built:
    """Raises: LabelerError; Closed, TimeoutError."""
    channel, deadline = wire.Channel(control), time.monotonic() + BUILD_S
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
