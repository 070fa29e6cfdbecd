"""A circuit breaker: a server that fails request after request is left alone, then tried with one request after each pause.

Ours, since the libraries for it (pybreaker, purgatory, circuitbreaker) refuse calls while the circuit is open: a service
wants that. A data set wants the opposite: its requests wait, because one that is refused is a row that is lost.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pipeline.errors import EngineFailed

MOST = 5
"""Requests that fail one after the other, each with all its tries, open the circuit. That many different ones: a question that
breaks whatever it is put to must not stop the others (own)."""
MOST_OF_ONE = 3
"""So many failures of one request open it too, while nothing else is answered: where few ask at a time, there are no others to
tell a server that is down (own)."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""Each further pause is twice as long, half of it drawn at random (own)."""


@dataclass
class Breaker:
    """Counts the requests that fail one after the other at one server.

    Args:
        server: its address, for the messages.
        patience_s: seconds of nothing but failures after which the server is given up.
        say: hears when the circuit opens, and when the server answers again.
        is_up: asks the server something harmless before a request is tried; it may take a while.
    """

    server: str
    patience_s: float
    say: Callable[[str], None]
    is_up: Callable[[], bool]
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _line: deque[object] = field(default_factory=deque, init=False)
    _failures: int = field(default=0, init=False)
    _failed: dict[int, list[object]] = field(default_factory=dict, init=False)
    _pauses: int = field(default=0, init=False)
    _opened_at: float | None = field(default=None, init=False)
    _again_at: float = field(default=0.0, init=False)
    _probing: int | None = field(default=None, init=False)
    """The thread whose request is tried while the circuit is open."""
    _last: str = field(default="", init=False)
    _stopped: bool = field(default=False, init=False)

    def enter(self) -> bool:
        """Waits until a request may be sent: at once while the server answers; else in line, one request after each pause.

        Returns:
            False when `stop` was called: nothing is to be sent any more.

        Raises:
            EngineFailed: the server is given up.
        """
        ticket = object()
        with self._changed:
            if self._opened_at is None:
                return not self._stopped
            self._line.append(ticket)
            try:
                return self._wait(ticket)
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()

    def answered(self) -> None:
        """The server gave an answer, be it of no use: the circuit closes."""
        with self._changed:
            opened, self._opened_at = self._opened_at, None
            self._failures = self._pauses = 0
            self._failed.clear()
            self._probing = None
            self._changed.notify_all()
        if opened is not None:
            self.say(f"server {self.server}: answers again after {time.monotonic() - opened:.0f} s")

    def failed(self, request: object, why: str, wait_s: float = 0.0, *, busy: bool = False) -> bool:
        """The server failed `request`, after all its tries. Returns whether that speaks against the request.

        It does while others are answered, and when the server is up but for this. While the server is down, or busy, it does
        not: requests wait.

        Args:
            wait_s: what the server says about when to come back.
            busy: it says that it is; one such answer, after all the request's tries, opens the circuit.
        """
        with self._changed:
            self._failures, self._last = self._failures + 1, why
            of_it = self._failed.setdefault(id(request), [])
            of_it.append(request)  # kept, so that no other gets its id
            if self._opened_at is None and len(self._failed) < MOST and len(of_it) < MOST_OF_ONE and not busy:
                return True
            tried = self._probing == threading.get_ident()
            if self._opened_at is not None and not tried:  # it was sent before that
                return False
            was_up, self._probing = tried and not busy, None
            self._pause(max(wait_s, self._next_pause(grows=not was_up)))
            return was_up

    def stop(self) -> None:
        """Lets everybody who waits go, with nothing sent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def state(self) -> str:
        """What a person who looks is told while the circuit is open; empty while it is not."""
        with self._changed:
            left = self._again_at - time.monotonic()
            return "" if self._opened_at is None else self._told(max(0.0, left))

    def _wait(self, ticket: object) -> bool:
        while not self._stopped and self._opened_at is not None:
            now = time.monotonic()
            if max(now, self._again_at) - self._opened_at > self.patience_s:
                raise EngineFailed(self._given_up(now - self._opened_at))
            if now < self._again_at or self._probing is not None or self._line[0] is not ticket:
                self._changed.wait(max(0.01, self._again_at - now) if now < self._again_at else 1.0)
            elif self._asked():
                return True
        return not self._stopped

    def _asked(self) -> bool:
        """Whether the server is up: then the caller sends its request. The others wait meanwhile."""
        self._probing = threading.get_ident()
        self._changed.release()
        try:
            up = self.is_up()
        finally:
            self._changed.acquire()
        if not up:
            self._probing = None
            self._pause(self._next_pause(grows=True))
        return up

    def _pause(self, seconds: float) -> None:
        now = time.monotonic()
        self._opened_at = now if self._opened_at is None else self._opened_at
        self._again_at = now + seconds
        self._changed.notify_all()
        self.say(self._told(seconds))

    def _next_pause(self, *, grows: bool) -> float:
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._pauses)
        self._pauses += grows
        return longest * random.uniform(0.5, 1.0)  # many runs that ask one server must not come back together

    def _times(self) -> str:
        return "a request" if self._failures == 1 else f"{self._failures} requests in a row"

    def _told(self, pause: float) -> str:
        at = (datetime.now() + timedelta(seconds=pause)).strftime("%H:%M:%S")
        return (
            f"server {self.server}: {self._times()} failed, the last: {self._last}; "
            f"nothing is asked until {at} (in {pause:.0f} s), then one request at a time"
        )

    def _given_up(self, passed: float) -> str:
        return (
            f"server {self.server}: {self._times()} failed over {passed:.0f} s, the last: {self._last}; "
            f"the next try would come after patience_s = {self.patience_s:g}, so it is given up; finished shards are kept; "
            "hint: is the server up? the same command goes on from there"
        )
