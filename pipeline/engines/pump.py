"""The thread that keeps an engine stepping, and has it started again when it dies: what was finished by then stays finished.

pump = Pump(start, say)          start(concurrency) gives a running Core; None leaves the number to it
pump.send(tickets)               each ticket's answer comes out of its own `outbox`
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.engines import Generation, Progress, Request
from pipeline.engines.deaths import MOST_FRUITLESS, MOST_GIVEN_UP, cause_of, groups, is_killer, mark
from pipeline.errors import EngineFailed

LOOK_EVERY_S = 0.5
"""Between two looks at whether the engine's process lives."""
CLOSE_WITHIN_S = 60.0
"""For an engine to give its memory back; vLLM needs a second or two (own)."""
AGAIN_AFTER_S = (1.0, 5.0, 15.0)
"""Waits before an engine that does not start is tried again: a dead one's memory comes back late."""


class Refused(Exception):
    """The engine does not take this request; it takes others."""


class Core(Protocol):
    """A started engine, used by one thread. Whatever `add` and `step` raise but Refused means that it is dead."""

    concurrency: int
    engine: Any

    def add(self, ticket: Ticket) -> None: ...
    def step(self) -> Sequence[Any]:
        """Takes every request one token further. What finished by that: outputs with the `request_id` of their ticket."""
        ...

    def answer(self, ticket: Ticket, output: Any) -> Generation: ...

    def look(self) -> bool:
        """Whether its process has ended; a `step` that waits for it then fails."""
        ...

    def kill(self) -> bool:
        """Ends its process, so that `step` fails; False where it has none of its own."""
        ...

    def last_words(self) -> str: ...
    def close(self) -> None: ...


@dataclass(eq=False, slots=True)
class Ticket:
    """A request on its way: its prompt in tokens, where its answer goes, and the deaths that it has seen."""

    id: str
    request: Request
    ids: list[int]
    outbox: queue.SimpleQueue[Generation]
    deaths: int = 0
    alone: int = 0


@dataclass(frozen=True)
class Pace:
    """How an engine's time went, from its first request to the latest.

    Args:
        steps: times that it took all its requests a token further.
        busy_s: seconds in steps and in taking requests in.
        gaps: seconds of each time that it had nothing to do until the next request came.
        deaths: times that it was started again.
    """

    steps: int = 0
    busy_s: float = 0.0
    gaps: tuple[float, ...] = ()
    deaths: int = 0


@dataclass
class _Health:
    """What has happened since the engine last did something useful."""

    fruitless: int = 0
    given_up: int = 0
    deaths: int = 0
    stepped: float = field(default_factory=time.monotonic)


class Pump:
    """One thread steps the engine, another one watches the first.

    Args:
        start: starts an engine of so many sequences at a time.
        say: tells the user.
        name: the model's.
        stall_s: seconds without a step after which the engine is taken for dead.

    Raises:
        EngineFailed: it does not start.
    """

    def __init__(
        self, start: Callable[[int | None], Core], say: Callable[[str], None], name: str, stall_s: float
    ) -> None:
        self._start, self._say, self._name, self._stall_s = start, say, name, stall_s
        self.core: Core
        self.progress = Progress()
        self.failure: EngineFailed | None = None
        self._inbox: queue.SimpleQueue[list[Ticket] | None] = queue.SimpleQueue()
        self._waiting: dict[str, Ticket] = {}
        self._again: deque[list[Ticket]] = deque()
        self._suspects = False
        self._health = _Health()
        self._steps, self._busy_s = 0, 0.0
        self._gaps: list[float] = []
        self._closing = threading.Event()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name=f"engine {name}", daemon=True)
        self._thread.start()  # it starts the engine as well: a process dies with the thread that began it
        started.wait()
        if self.failure is not None:
            raise self.failure
        threading.Thread(target=self._watch, name=f"watch {name}", daemon=True).start()

    def send(self, tickets: list[Ticket]) -> None:
        """Has the tickets answered."""
        self._inbox.put(tickets)

    def answer(self, outbox: queue.SimpleQueue[Generation]) -> Generation:
        """The next answer in `outbox`. Raises: EngineFailed when there will be none."""
        while True:
            try:
                return outbox.get(timeout=1.0)  # a failed engine no longer answers: look up now and then
            except queue.Empty:
                if self.failure is not None and outbox.empty():
                    raise self.failure from None

    def pace(self) -> Pace:
        """How the engine's time went so far."""
        return Pace(self._steps, self._busy_s, tuple(self._gaps), self._health.deaths)

    def close(self) -> None:
        """Ends the threads and the engine; what is not answered stays so."""
        self._closing.set()
        self._inbox.put(None)
        if self.failure is None:
            self._thread.join(CLOSE_WITHIN_S)

    def _run(self, started: threading.Event) -> None:
        try:
            self.core = self._started(None)
            started.set()
            while not self._closing.is_set():
                if (said := self._turned()) and not self._closing.is_set():
                    self._restart(said)
            self.core.close()
        except EngineFailed as failure:
            self.failure = failure
        except BaseException as error:  # every caller must hear of it, whatever it is
            self.failure = EngineFailed(f"{self._name}: the engine's thread died: {type(error).__name__}: {error}")
        finally:
            started.set()

    def _turned(self) -> str:
        """One turn; what the engine said if it died of it. The exception is let go: it holds on to the engine's memory."""
        try:
            self._turn()
        except Exception as error:  # whatever an engine dies of
            return f"{type(error).__name__}: {error}"
        return ""

    def _turn(self) -> None:
        self._admit()
        began = self._health.stepped = time.monotonic()
        for output in self.core.step() if self._waiting else ():
            ticket = self._waiting.pop(output.request_id)
            generation = self.core.answer(ticket, output)
            tokens = generation.usage.completion if generation.usage else 0
            self.progress = Progress(self.progress.requests + 1, self.progress.tokens + tokens)
            self._health.fruitless = 0
            ticket.outbox.put(generation)
        self._steps += 1
        self._busy_s += time.monotonic() - began

    def _admit(self) -> None:
        """Hands requests to the engine; waits for one only when there is nothing to step. Suspects of a death go first, a group
        at a time, and nobody else with them."""
        if self._waiting and (self._again or self._suspects):
            return
        group = self._again.popleft() if self._again else []
        self._suspects = any(ticket.deaths for ticket in group)
        if group:
            self._take(group)
            return
        while not (self._closing.is_set() or (self._waiting and self._inbox.empty())):
            began = time.monotonic()
            tickets = self._inbox.get()
            if tickets and not self._waiting and self._steps:
                self._gaps.append(time.monotonic() - began)
            self._take(tickets or [])

    def _take(self, tickets: list[Ticket]) -> None:
        began = time.monotonic()
        for place, ticket in enumerate(tickets):
            self._waiting[ticket.id] = ticket
            try:
                self.core.add(ticket)
            except Refused as error:
                del self._waiting[ticket.id]
                ticket.outbox.put(Generation(ticket.request.id, error=str(error)))
            except BaseException:
                self._waiting |= {each.id: each for each in tickets[place:]}  # a dead engine takes none: all come again
                raise
        self._busy_s += time.monotonic() - began

    def _restart(self, said: str) -> None:
        """Starts the engine again and sends again what it had not finished. Raises: EngineFailed."""
        core, there = self.core, list(self._waiting.values())
        said = f"{said}\n{core.last_words()}"
        core.close()
        self._waiting.clear()
        cause = cause_of(said)
        fewer = cause.remedy == "fewer" and core.concurrency > 1
        self._health.deaths += 1
        self._health.fruitless += not fewer
        if cause.remedy == "none":
            raise self._failed("died", said, cause.hint)
        if self._health.fruitless > MOST_FRUITLESS:
            raise self._failed(
                f"died {self._health.fruitless} times in a row and finished no request", said, cause.hint
            )
        if fewer:  # no request's fault
            self._again.appendleft(there)
        else:
            self._judge(there, said)
        concurrency = core.concurrency // 2 if fewer else core.concurrency
        what = f"out of memory with {core.concurrency} sequences at a time" if fewer else brief(said)
        self._say(
            f"warning: {self._name}: the engine died ({what}); it is started again with {concurrency} sequences at a time, "
            f"{len(there)} unfinished requests are sent again"
        )
        self.core = self._started(concurrency)

    def _judge(self, there: list[Ticket], said: str) -> None:
        """Decides how those who were there come again; who is known to kill does not."""
        mark(there)
        if not is_killer(there):
            self._again.extendleft(reversed(groups(there)))
            return
        self._health.given_up += 1
        if self._health.given_up > MOST_GIVEN_UP:
            raise self._failed(f"died of {self._health.given_up} different requests", said, "")
        (killer,) = there
        told = f"the engine died of this request {killer.deaths} times, {killer.alone} of them with no other: {brief(said)}"
        killer.outbox.put(Generation(killer.request.id, error=told))

    def _started(self, concurrency: int | None) -> Core:
        """A new engine, in fewer sequences at a time where memory does not suffice. Raises: EngineFailed."""
        waits = iter(AGAIN_AFTER_S if concurrency is not None else ())
        while True:
            try:
                return self._start(concurrency)
            except StartFailed as error:
                said, tried = error.said, error.concurrency
            cause = cause_of(said)
            if cause.remedy == "fewer" and tried > 1:
                concurrency = tried // 2
                self._say(
                    f"warning: {self._name}: not enough memory for {tried} sequences at a time; "
                    f"the engine is started with {concurrency}"
                )
            elif (wait_s := next(waits, None)) is None:
                raise self._failed("does not start", said, cause.hint)
            else:
                time.sleep(wait_s)

    def _failed(self, what: str, said: str, hint: str) -> EngineFailed:
        hint = (
            hint
            or "python -m pipeline doctor says what this machine can run, VLLM_LOGGING_LEVEL=INFO shows vLLM's own log"
        )
        return EngineFailed(
            f"{self._name}: the engine {what}: {brief(said)}; what is finished is kept, and the same command goes on from there; "
            f"hint: {hint}"
        )

    def _watch(self) -> None:
        """Wakes the stepping thread when the engine's process is gone, and ends a process that has not stepped for too long."""
        while not self._closing.wait(LOOK_EVERY_S) and self.failure is None:
            core, stalled = self.core, time.monotonic() - self._health.stepped >= self._stall_s
            if not self._waiting or core.look() or not stalled:
                continue
            hint = "raise stall_timeout_s if its steps really take so long"
            if core.kill():
                self._say(f"warning: {self._name}: no step for {self._stall_s:g} s, its process is ended; hint: {hint}")
            else:
                self.failure = self._failed(f"has made no step for {self._stall_s:g} s", "it hangs", hint)


class StartFailed(Exception):
    """An engine that did not start: what it said, and for how many sequences at a time it was."""

    def __init__(self, said: str, concurrency: int) -> None:
        super().__init__(said)
        self.said, self.concurrency = said, concurrency


def brief(said: str) -> str:
    """The line of an engine's last words that says most: its last exception, or the first line."""
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    errors = [
        line for line in lines if line.partition(":")[0].endswith(("Error", "Exception", "Ended")) and ":" in line
    ]
    return (errors[-1] if errors else lines[0] if lines else "it said nothing")[:400]
