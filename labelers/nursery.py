"""The process in which a labeler is built and from which its confined workers are forked. Started by labelers/sandbox.py.

It is small (the standard library and the labeler), has one thread, and sees no hostile text: it builds the labeler, runs it
on its own examples so that everything that it loads lazily is loaded, and then forks a worker whenever it is asked to.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import json
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labelers import call, confine
from labelers.discovery import LabelerSpec
from labelers.errors import BrokenPlugin, LabelerError
from labelers.protocol import Chat, Labeler, Program, Ran
from labelers.types import Candidate, Comparison, Completion
from labelers.wire import HEADER, pack_message
from labelers.worker import PIPE, serve

FORK, BURY = b"F", b"B"
"""What a nursery is asked: fork a worker (a socket comes with it); kill the worker and say how it ended."""

_CODECS = (
    "ascii", "cp1252", "idna", "latin-1", "punycode", "raw_unicode_escape", "unicode_escape", "utf-16", "utf-16-le",
    "utf-16-be", "utf-32", "utf-7", "utf-8-sig",
)  # fmt: skip
_STRANGE = ("", "x ( {[\n```\n\ud800 1")


@dataclass(frozen=True)
class Order:
    """What a nursery is told: which labeler, how to confine its workers, and whether to try it on its examples first."""

    spec: LabelerSpec
    scratch: Path
    memory_gb: float
    parent: int
    warm: bool = True


@dataclass
class _Rehearsal:
    """The tools while a labeler is tried on its examples: none is there, and the use of the scratch folder is noted."""

    folder: Path
    used: list[str] = field(default_factory=list)

    @property
    def scratch(self) -> Path:
        self.used.append("scratch")
        return self.folder

    def generate(self, chats: Sequence[Chat], schema: str = "") -> Sequence[str | None]:
        return [None for _ in chats]

    def rewards(self, chats: Sequence[Chat]) -> Sequence[float | None]:
        return [None for _ in chats]

    def run_program(self, program: Program) -> Ran:
        return Ran("exited", 1)


def main() -> None:
    """Builds, rehearses, and forks until the other end of the socket is closed."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        order = _order(control)
        confine.die_with_parent(order.parent)  # until it waits at the socket, where it notices by itself
        try:
            labeler = order.spec.build()
        except LabelerError as error:
            _say(control, "error", type(error).__name__, error.what, error.where, error.hint)
            return
        except BaseException as error:
            wrong = BrokenPlugin(f"it could not be made: {type(error).__name__}: {error}", where=order.spec.use)
            _say(control, "error", "BrokenPlugin", wrong.what, wrong.where, wrong.hint)
            return
        answered, policy = _rehearse(labeler, order)
        namespaces = "" if policy.network else confine.leave_namespaces()
        _say(control, "built", _facts(labeler, answered, policy), namespaces)
        confine.die_with_parent(None)
        gc.collect()
        gc.freeze()
        _wait_on(control, labeler, policy, order.scratch)


def _order(control: socket.socket) -> Order:
    (length,) = HEADER.unpack(control.recv(HEADER.size, socket.MSG_WAITALL))
    order: Order = pickle.loads(control.recv(length, socket.MSG_WAITALL))
    return order


def _say(control: socket.socket, *parts: Any) -> None:
    body = pack_message(*parts)
    control.sendall(HEADER.pack(len(body)) + body)


def _facts(labeler: Labeler, answered: bool, policy: confine.Policy) -> dict[str, Any]:
    """What the other end must know of the labeler without having it."""
    return {
        "name": labeler.name,
        "version": labeler.version,
        "needs": asdict(labeler.needs),
        "pairwise": hasattr(labeler, "compare"),
        "symmetric": bool(getattr(labeler, "symmetric", False)),
        "place": call.place(labeler),
        "has_answered": answered,
        "uses_scratch": policy.scratch is not None,
    }


def _rehearse(labeler: Labeler, order: Order) -> tuple[bool, confine.Policy]:
    """Runs the labeler on its own examples and some strange texts. Whether it answered, and how to confine it then."""
    for name in _CODECS:
        codecs.lookup(name)
    time.localtime()
    tools, answered = _Rehearsal(order.scratch), False
    if order.warm:
        with contextlib.suppress(Exception):  # what is wrong with it is for `check` to say
            answers = call.answers(labeler, _examples(labeler), tools)
            answered = any(not isinstance(answer, call.Malformed) for answer in answers)
    memory = int(max(order.memory_gb, labeler.needs.memory_gb) * 1e9)
    scratch = order.scratch if tools.used else None
    return answered, confine.Policy(memory, scratch, labeler.needs.network)


def _examples(labeler: Labeler) -> list[Any]:
    found: list[Any] = []
    for example in labeler.examples:
        better, *others = (Completion.of(example.prompt, t) for t in (example.better, example.worse, *_STRANGE))
        if hasattr(labeler, "compare"):
            found += [Comparison(example.prompt, better, other) for other in others]
        else:
            found += [Candidate(example.prompt, each) for each in (better, *others)]
    return found


def _wait_on(control: socket.socket, labeler: Labeler, policy: confine.Policy, scratch: Path) -> None:
    worker = 0
    while True:
        asked, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if asked == FORK:
            worker = _fork(control, descriptors[0], labeler, policy, scratch)
            _say(control, "forked", worker)
        elif asked == BURY:
            _say(control, "ended", _bury(worker))
        else:
            if worker:
                _bury(worker)
            return


def _fork(control: socket.socket, pipe: int, labeler: Labeler, policy: confine.Policy, scratch: Path) -> int:
    nursery = os.getpid()
    worker = os.fork()
    if worker:
        os.close(pipe)
        return worker
    try:
        os.setsid()
        confine.die_with_parent(nursery)
        _keep_only(pipe, control)
        layers = confine.confine(policy)
        body = json.dumps(["ready", layers]).encode()
        os.write(PIPE, HEADER.pack(len(body)) + body)
        serve(labeler, scratch)
    finally:
        os._exit(0)


def _keep_only(pipe: int, control: socket.socket) -> None:
    """Leaves the pipe as descriptor `PIPE`, and nothing behind 0, 1 and 2."""
    control.detach()
    os.dup2(0, 2)
    if pipe != PIPE:
        os.dup2(pipe, PIPE)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > PIPE:
            with contextlib.suppress(OSError):
                os.close(int(name))  # the listing's own is gone by now


def _bury(worker: int) -> int:
    """Ends the worker and gives its wait status. Its id cannot be another process's: nobody else waits for it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    return os.waitpid(worker, 0)[1]


if __name__ == "__main__":
    main()
