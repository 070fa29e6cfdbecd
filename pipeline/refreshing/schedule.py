"""Refreshes at set times: one loop in the foreground, one refresh at a time, what was missed is caught up once."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Protocol

from filelock import FileLock, Timeout

from pipeline.errors import Busy, ConfigError, Damaged
from pipeline.storage.lease import lease
from pipeline.storage.shards import read_json, write_json
from pipeline.storage.stores import is_store
from pipeline.storage.storing import make_folder
from pipeline.tied import tied

LOCK = ".schedule.lock"
STATE = "schedule.json"
"""The file in a run's folder that says when the last refresh began that came to its end."""
BUSY = 75
TICK_S = 1.0
FIELDS = "minute hour day month weekday, as in '0 3 * * *'"
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Times(Protocol):
    """When a refresh is due."""

    def due(self, last: datetime, now: datetime, passed_s: float) -> bool:
        """Whether one is due. `passed_s` is the time since `last` by a clock that nobody sets."""

    def due_at_first(self) -> bool:
        """Whether one is due where there never was one."""


@dataclass(frozen=True)
class Every:
    """A fixed time between the beginnings of two refreshes; the first is due at once."""

    seconds: float

    def due(self, last: datetime, now: datetime, passed_s: float) -> bool:
        """By the clock that nobody sets alone."""
        return passed_s >= self.seconds

    def due_at_first(self) -> bool:
        """At once."""
        return True


@dataclass(frozen=True)
class Cron:
    """The times of a cron expression, in this machine's time zone; the first is awaited."""

    expression: str

    def __post_init__(self) -> None:
        fields = self.expression.split()
        if len(fields) != 5:
            raise ConfigError(f"--cron {self.expression!r}: has {len(fields)} fields, not 5; hint: {FIELDS}")
        if fields[2] != "*" and fields[4] != "*":
            raise ConfigError(
                f"--cron {self.expression!r}: names days of the month and of the week, which schedulers read differently; "
                "hint: one of the two is *"
            )
        self.next(datetime.now(UTC))

    def due(self, last: datetime, now: datetime, passed_s: float) -> bool:
        """Whether a time of the expression lies between `last` and `now`, one or many."""
        return self.next(last) <= now

    def due_at_first(self) -> bool:
        """Not before its time."""
        return False

    @property
    def weekdays(self) -> str:
        """The last field with names for numbers: cron's Sunday is 0 and 7, APScheduler's is 6."""
        return ",".join(_named(part) for part in self.expression.split()[4].split(","))

    def next(self, after: datetime) -> datetime:
        """The first time after `after`. Raises ConfigError when the expression is none."""
        from apscheduler.triggers.cron import CronTrigger

        try:
            minute, hour, day, month, _ = self.expression.split()
            trigger = CronTrigger(None, month, day, None, self.weekdays, hour, minute, 0)
            found = trigger.get_next_fire_time(None, after + timedelta(seconds=1))
        except ValueError as error:
            raise ConfigError(f"--cron {self.expression!r}: {error}; hint: {FIELDS}") from None
        if found is None:
            raise ConfigError(f"--cron {self.expression!r}: never comes; hint: no month has such a day")
        moment: datetime = found
        return moment


def _named(part: str) -> str:
    """A part of cron's weekdays in names. Raises ValueError when it has a number that is no day."""
    found = re.fullmatch(r"(?:(\d)(?:-(\d))?|\*)(?:/(\d))?", part)
    if found is None or part == "*":
        return part
    first, last, step = found.groups()
    start = int(first or 0)
    end = int(last) if last else start if first and not step else 6
    days = range(start, end + 1, int(step or 1))
    if not days or days[-1] > 7:
        raise ValueError(f"{part} is no weekday")
    return ",".join(DAYS[day % 7] for day in days)


def times(cron: str | None, every: str | None) -> Cron | Every:
    """The times that the command line asks for.

    Args:
        every: a number and one of s, m, h, d: `6h`.

    Raises:
        ConfigError: neither or both are given, or one cannot be read.
    """
    if (cron is None) == (every is None):
        raise ConfigError('say when; hint: --cron "0 3 * * *", or --every 6h')
    if cron is not None:
        return Cron(cron)
    number, unit = str(every)[:-1], str(every)[-1:]
    if unit not in UNITS or not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"--every {every}: is no time; hint: a number and one of s, m, h, d, as in 6h")
    return Every(int(number) * UNITS[unit])


class Stopped(Exception):
    """Somebody asked this process to end."""


@dataclass
class Schedule:
    """The loop.

    Args:
        run: the run's folder; the state and the loop's own lock lie there.
        command: a refresh, as a process: its memory and its engine end with it, and it ends with the schedule.
        told: is given the exit code of each refresh that came to its end, and what it printed.
        busy_s: while another run holds the folder: seconds until the next try.
        grace_s: seconds that a refresh has to end in, once this process was asked to.
    """

    run: Path
    times: Times
    command: Sequence[str]
    told: Callable[[int, str], None] = lambda code, said: None
    busy_s: float = 60.0
    grace_s: float = 60.0
    _last: datetime | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)

    def forever(self) -> None:
        """Refreshes when it is due, until SIGTERM or Ctrl-C: then a running refresh is ended cleanly, and this returns.

        Raises:
            Busy: another schedule of this run is at work.
        """
        with _alone(self.run), _stopping():
            try:
                self._recall()
                while True:
                    if self._is_due():
                        self._refresh()
                    time.sleep(TICK_S)
            except Stopped:
                return

    def _recall(self) -> None:
        """Takes up where the schedule before ended: what came due meanwhile is caught up, once."""
        now, clock = datetime.now(UTC), time.monotonic()
        try:
            said = read_json(self.run / STATE)
            last = datetime.fromisoformat(said["began"])
        except FileNotFoundError:
            self._last = None if self.times.due_at_first() else now
            self._began = clock
            return
        except (ValueError, KeyError, TypeError, Damaged) as error:
            raise ConfigError(f"{self.run / STATE}: cannot be read ({error}); hint: delete it") from error
        self._last = min(last, now)  # a clock that was set back must not silence the schedule
        self._began = clock - (now - self._last).total_seconds()

    def _is_due(self) -> bool:
        now = datetime.now(UTC)
        if self._last is None:
            return True
        if now < self._last:  # the clock was set back
            self._last = now
        return self.times.due(self._last, now, time.monotonic() - self._began)

    def _refresh(self) -> None:
        """One refresh, to its end; while another run holds the folder it is tried again."""
        began, clock = datetime.now(UTC), time.monotonic()
        while (ended := self._perform())[0] == BUSY:
            time.sleep(self.busy_s)
        # Written after the end: a refresh that was killed is due again at once when the schedule comes back.
        write_json(self.run / STATE, {"began": began.isoformat(), "exit_code": ended[0]})
        self._last, self._began = began, clock
        self.told(*ended)

    def _perform(self) -> tuple[int, str]:
        process = subprocess.Popen(tied(self.command), stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            said, _ = process.communicate()
        except Stopped:
            self._end(process)
            raise
        return process.returncode, said

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Asks as Ctrl-C does; whoever does not listen, or is asked a second time, is killed (its files stay whole)."""
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=self.grace_s)
        except (subprocess.TimeoutExpired, Stopped):
            process.kill()
            process.wait()


def refresh_command(config: Path | None, settings: Sequence[str], root: Path) -> list[str]:
    """The command that refreshes, with absolute paths: it works from anywhere."""
    chosen = [str(config.resolve())] if config else []
    laid = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "pipeline", "refresh", *chosen, *laid, "--root", str(root.resolve()), "--json"]


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    if is_store(run):
        with lease(run / LOCK):
            yield
        return
    make_folder(run)
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise Busy(f"{run}: another schedule refreshes this run; hint: end that one first") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM and Ctrl-C raise Stopped inside."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
