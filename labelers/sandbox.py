"""A labeler in a process of its own that can do nothing but compute: what a hostile text reaches is that process.

    with sandbox.opened(LabelerSpec("parses"), tools) as worker:
        labels = worker.score(batch)

One nursery (labelers/nursery.py) builds the labeler and forks confined workers (labelers/confine.py). Batches go over a pipe;
a worker that dies, hangs or says nonsense is replaced, and the items of its batch are asked one by one, so that each such
death costs the item that caused it: an abstention with the reason, never a score.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from labelers import wire
from labelers.call import Crashed, Label, Malformed, Outcome, cut, settled
from labelers.confine import REMEDY, REQUIRED
from labelers.discovery import LabelerSpec
from labelers.errors import IsolationLacks, LabelerError
from labelers.launcher import Patience
from labelers.protocol import Context, Program, Ran
from labelers.spawn import NURSERIES, Built, Nursery, as_error
from labelers.types import Abstain, Candidate, Comparison, Needs, Score, Verdict

RunProgram = Callable[[Program], Ran]
Tools = TypeVar("Tools")

BATCH_ITEMS = 256
BATCH_CHARS = 1 << 18
"""Long texts go nearly alone: the one that hangs then costs no neighbour a second try."""
BATCH_SECONDS = 0.1
"""Batches are made as long as this: long enough to hide the pipe, short enough that a stuck one is soon noticed."""
PROGRAM_BYTES = 1 << 26
"""The most that a tool's argument may take on the pipe."""
TOOL_CALLS = 64
"""Calls of tools that one item may cause."""


@dataclass(frozen=True)
class Limits:
    """How long and how much a labeler may take, and which isolation may be missing.

    Args:
        timeout_s: seconds for one item; time in tools (an engine, a program) does not count, nor does time in which it waits for
            a processor, up to ten times as long. Source: isolation.md.
        memory_gb: address space of the worker beyond its start; a labeler's larger `needs.memory_gb` counts.
        allow: what is granted of `network` and `sandbox` (running completions).
        accept_weaker: layers (labelers.confine.LAYERS) without which it may go on.
    """

    timeout_s: float = 2.0
    memory_gb: float = 2**30 / 1e9
    allow: frozenset[str] = frozenset()
    accept_weaker: frozenset[str] = frozenset()


@contextlib.contextmanager
def opened(spec: LabelerSpec, tools: Context, limits: Limits | None = None) -> Iterator[Worker]:
    """The labeler of `spec`, built and ready in its own confined process.

    Args:
        tools: what answers the labeler's `ctx`, in this process.

    Raises:
        LabelerError: it cannot be built; or IsolationLacks: a needed layer is missing or a need not allowed.
    """
    limits = limits or Limits()
    whole = "network" in limits.allow
    with Nursery.started(spec, tools.scratch, limits.memory_gb, whole_environment=whole) as nursery:
        require_allowed(nursery.built.name, nursery.built.needs, limits)
        worker = Worker(nursery, tools, limits)
        worker.ready()
        yield worker


def require_allowed(name: str, needs: Needs, limits: Limits) -> None:
    """Raises: IsolationLacks when the labeler called `name` needs what `limits` do not grant."""
    for need, what in {"network": "opens connections", "sandbox": "runs completions"}.items():
        if getattr(needs, need) and need not in limits.allow:
            hint = f"{need} = true in the run's config, or --{need}"
            raise IsolationLacks(f"{name} {what}, which is not allowed", hint=hint)


@contextlib.contextmanager
def lent(make: Callable[[Path, RunProgram], Tools], name: str, needs: Needs) -> Iterator[Tools]:
    """The tools that `make` makes of a scratch folder, which goes with them, and of what starts the programs in `needs`.

    Raises:
        LabelerError: a program is missing, or the isolation for it.
    """
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-")))
        run_program: RunProgram = no_program
        if needs.programs or needs.sandbox:
            from labelers.programs import opened_launcher

            run_program = stack.enter_context(opened_launcher(needs)).run
        yield make(scratch, run_program)


def no_program(program: Program) -> Ran:
    """Refuses. Raises: LabelerError."""
    raise LabelerError(
        f"the labeler starts {program.argv[0]!r} and does not say so", hint="needs = Needs(programs=(...))"
    )


@dataclass
class _Failure:
    """What came of a batch that was not answered."""

    reason: str
    is_timeout: bool = False
    is_memory: bool = False


class Worker:
    """A labeler's confined process; it is replaced whenever it dies."""

    def __init__(self, nursery: Nursery, tools: Context, limits: Limits) -> None:
        self._nursery, self._lent, self._limits = nursery, tools, limits
        self._tools = tools
        self._built = nursery.built
        self._has_answered = self._built.has_answered
        self._size = BATCH_ITEMS // 2
        self._served = 0
        self._first_rss = 0
        self.layers: dict[str, str] = {}
        self.crashes: list[str] = []
        """Why items of the last batch became abstentions though the labeler did not say so."""

    @property
    def name(self) -> str:
        """The labeler's own name."""
        return self._built.name

    @property
    def version(self) -> str:
        """The labeler's version."""
        return self._built.version

    @property
    def needs(self) -> Needs:
        """The labeler's needs."""
        return self._built.needs

    @property
    def pairwise(self) -> bool:
        """Whether it compares two completions."""
        return self._built.pairwise

    @property
    def symmetric(self) -> bool:
        """Whether one order of a comparison is enough to ask."""
        return self._built.symmetric

    @property
    def lost(self) -> dict[str, str]:
        """The layers that could not be had, and why."""
        return {layer: why for layer, why in self.layers.items() if why}

    def score(self, batch: Sequence[Candidate], tools: Context | None = None) -> list[Score | Abstain]:
        """One label for each candidate, in order.

        Args:
            tools: what answers the labeler's `ctx` this time; None: those that it was opened with.

        Raises:
            WrongAnswers: nearly every answer is of the wrong number or type.
            LabelerError, or whatever a tool raised on purpose: the labeler cannot go on.
        """
        return self._judge(batch, tools)  # type: ignore[return-value]

    def compare(self, batch: Sequence[Comparison], tools: Context | None = None) -> list[Verdict | Abstain]:
        """One label for each comparison, in order; see `score`."""
        return self._judge(batch, tools)  # type: ignore[return-value]

    def ready(self) -> None:
        """Sees to it that a worker runs, confined, and waits for a question. Raises: IsolationLacks."""
        if self._nursery.worker and self._nursery.channel.is_silent():
            return
        if self._nursery.worker:  # it has ended, or says what it was not asked
            self._nursery.bury()
        self.layers = {"namespaces": self._nursery.built.namespaces, **self._nursery.fork()}
        self._served, self._first_rss = 0, 0
        missing = [layer for layer in _needed(self._built) if self.layers.get(layer, "not tried")]
        for layer in missing:
            if layer not in self._limits.accept_weaker:
                raise IsolationLacks(
                    f"{self.name} needs the isolation layer {layer}: {self.layers.get(layer, 'not tried')}",
                    hint=f"{REMEDY[layer]}; or accept_weaker = [{layer!r}] in the run's config, which is recorded",
                )

    def _judge(self, batch: Sequence[Any], tools: Context | None) -> list[Label]:
        self._tools = tools or self._lent
        found: list[Outcome] = []
        while len(found) < len(batch):
            found += self._part(batch[len(found) : len(found) + self._fitting(batch, len(found))])
        labels = settled(self._built.place, found, has_answered=self._has_answered)
        self._has_answered |= any(not isinstance(answer, Malformed | Crashed) for answer in found)
        self.crashes = [answer.reason for answer in found if isinstance(answer, Malformed | Crashed)]
        return labels

    def _fitting(self, batch: Sequence[Any], start: int) -> int:
        """How many items to send at once."""
        if self.needs.engine:  # an engine is fastest when it sees everything
            return len(batch) - start
        chars = n = 0
        for item in batch[start : start + self._size]:
            chars += len(item.completion.text) if isinstance(item, Candidate) else len(item.a.text) + len(item.b.text)
            if n and chars > BATCH_CHARS:
                break
            n += 1
        return n

    def _part(self, part: Sequence[Any]) -> list[Outcome]:
        began = time.monotonic()
        outcome = self._try(part)
        if isinstance(outcome, _Failure) and outcome.is_memory and self._served:
            self._nursery.bury()  # what other items left behind must not cost this one
            outcome = self._try(part)
        if not isinstance(outcome, _Failure):
            self._served += len(part)
            each = (time.monotonic() - began) / len(part)
            self._size = max(1, min(BATCH_ITEMS, 2 * self._size, int(BATCH_SECONDS / max(each, 1e-6))))
            self._recycle_when_grown()
            return outcome
        if len(part) == 1:
            reason = cut(outcome.reason)
            return [Abstain("timeout", reason) if outcome.is_timeout else Crashed(reason)]
        self._size = 1
        step = (len(part) + 1) // 2 if self.needs.engine else 1
        return [label for i in range(0, len(part), step) for label in self._part(part[i : i + step])]

    def _try(self, part: Sequence[Any]) -> list[Outcome] | _Failure:
        """Asks for the part once; a worker that fails is buried. Who goes with a nursery that is ended from outside is no
        failure: it is asked again.
        """
        for _ in range(NURSERIES):
            self.ready()
            try:
                return self._ask(part)
            except TimeoutError:
                self._nursery.bury()
                return _Failure(f"no answer within {self._limits.timeout_s:g} s", is_timeout=True)
            except wire.Misbehaved as error:
                self._nursery.bury()
                return _Failure(f"the labeler's process misbehaved: {error}")
            except wire.Closed:
                status = self._nursery.bury()
                if status is not None:
                    return _Failure(_ending(status))
            except BaseException:  # a tool's own error, Ctrl-C: the worker waits for an answer that will not come
                self._nursery.bury()
                raise
        raise self._nursery.died()

    def _ask(self, part: Sequence[Any]) -> list[Outcome] | _Failure:
        """Raises: TimeoutError, Closed, Misbehaved; LabelerError; what a tool raised."""
        channel, nonce = self._nursery.channel, secrets.token_hex(8)
        deadline, more = self._clock(self._seconds_for(len(part)))
        answer_bytes = 4096 + wire.ANSWER_BYTES * len(part)
        limit = answer_bytes if not self._has_tools() else max(answer_bytes, PROGRAM_BYTES)
        channel.send(wire.pack_question(nonce, part), deadline, more)
        for _ in range(1 + TOOL_CALLS * len(part)):
            message = wire.read_message(channel.receive(limit, deadline, more))
            match message:
                case ["answers", *_]:
                    labels = wire.read_answers(message, nonce, len(part), self.pairwise)
                    self._confirm(channel)
                    return labels
                case ["failed", str(said), str(kind), str(reason)] if said in (nonce, ""):
                    return _Failure(reason, is_memory=kind == "MemoryError")
                case ["error", str(said), *_] if said == nonce:
                    raise as_error(message[2:])
            began = time.monotonic()
            result = self._serve(message)
            deadline += time.monotonic() - began  # the clock stands still while a tool works
            channel.send(result, deadline, more)
        raise wire.Misbehaved(f"it called tools over {TOOL_CALLS} times for an item")

    def _confirm(self, channel: wire.Channel) -> None:
        """An empty question behind each: had a text forged the reply, the worker's own would come now. Raises: see `_ask`."""
        nonce = secrets.token_hex(8)
        deadline, more = self._clock(BATCH_SECONDS + self._limits.timeout_s / 4)
        channel.send(wire.pack_question(nonce, []), deadline, more)
        wire.read_answers(wire.read_message(channel.receive(4096, deadline, more)), nonce, 0, self.pairwise)

    def _clock(self, seconds: float) -> tuple[float, wire.More]:
        """When the worker's time is up, and who says how long to wait on then."""
        return time.monotonic() + seconds, Patience(self._nursery.worker, seconds).more

    def _seconds_for(self, n: int) -> float:
        """A whole batch gets less than an item alone: it was made for a tenth of a second, and is only tried again."""
        timeout_s = self._limits.timeout_s * (15 if self.needs.network else 1)
        if self.needs.engine:
            return timeout_s * (1 + n / 32)
        return timeout_s if n == 1 else max(timeout_s / 4, 5 * BATCH_SECONDS)

    def _has_tools(self) -> bool:
        return bool(self.needs.engine or self.needs.programs or self.needs.sandbox)

    def _serve(self, message: list[Any]) -> bytes:
        """A tool's result for the worker. Raises: Misbehaved; what the tool raises on purpose."""
        tool, arguments = wire.read_tool(message)
        asks_engine = tool in ("generate", "rewards")
        if not (self.needs.engine if asks_engine else self.needs.programs or self.needs.sandbox):
            need = "engine=True" if asks_engine else "programs=(...)"
            return wire.pack_refusal(f"ctx.{tool} is lent only to a labeler with needs = Needs({need})")
        try:
            return wire.pack_result(getattr(self._tools, tool)(*arguments))
        except (TypeError, ValueError, KeyError, OSError) as error:
            return wire.pack_refusal(f"{type(error).__name__}: {error}")

    def _recycle_when_grown(self) -> None:
        """A labeler that leaks gets a new process before its memory ends."""
        rss = self._nursery.rss()
        self._first_rss = self._first_rss or rss
        if rss - self._first_rss > max(self._limits.memory_gb, self.needs.memory_gb) * 1e9 / 2:
            self._nursery.bury()


def _needed(built: Built) -> tuple[str, ...]:
    """The layers without which this labeler does not run."""
    if built.needs.network:
        return ("rlimits", "no_new_privs")
    return (*REQUIRED, "landlock") if built.uses_scratch else REQUIRED


def _ending(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"the labeler's process died of {signal.Signals(number).name}"
        return f"the labeler's process died of signal {number}"
    return f"the labeler ended its process with exit code {os.waitstatus_to_exitcode(status)}"
