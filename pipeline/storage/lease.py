"""A lock in an object store, which has none: an object that its holder renews, and that others take once it stays as it is.

No clock is compared with another machine's: who wants the lease watches it by its own, for as long as a holder has to renew it.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import Busy, EnvironmentLacks
from pipeline.storage.memory import Tag
from pipeline.storage.stores import StorePath, Unmet, require_reachable


@dataclass(frozen=True)
class Times:
    """How long a lease lasts, in seconds (own).

    Args:
        renew_s: between two renewals; who finds the lease taken knows after this long that its holder lives.
        lasts_s: without a renewal the lease is free. Six renewals: a store may be slow, or out of reach for a while.
        give_up_s: without a renewal its holder stops: surely before another may take it.
    """

    renew_s: float = 10.0
    lasts_s: float = 60.0
    give_up_s: float = 45.0


TIMES = Times()


@dataclass
class Lease:
    """What one holder knows of its lease.

    Args:
        token: tells this holder's writes from all others'.
        lost: why the lease is another's now; empty while it is held.
    """

    place: StorePath
    times: Times
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    tag: Tag = field(default_factory=dict)
    beats: int = 0
    lost: str = ""
    _renewed: float = 0.0

    def take(self) -> None:
        """Takes the lease where it is free. Raises: Busy, EnvironmentLacks."""
        try:
            self._write("create")
        except Unmet:
            try:
                self._write(self._watched())
            except Unmet:
                raise Busy(self._taken(_said(self.place))) from None

    def require_conditions(self) -> None:
        """Raises EnvironmentLacks when the store ignores conditions, as some do: its leases would lock nothing."""
        old = self.tag
        self._write(old)
        for condition in ("create", old):
            with suppress(Unmet):
                self.place.write(self._content(), condition)
                raise EnvironmentLacks(
                    f"{self.place.bucket}: the store ignores If-None-Match and If-Match, so two runs could hold one folder; "
                    "hint: a store that writes on a condition (Amazon, Google, Azure, R2, MinIO and Ceph do), or a local --root"
                )

    def renew(self) -> None:
        """Renews the lease, or finds that it is lost."""
        try:
            self._write(self.tag)
        except (Unmet, FileNotFoundError):
            self.lost = f"it was taken by {_named(_said(self.place))}"
        except EnvironmentLacks as error:
            if time.monotonic() - self._renewed > self.times.give_up_s:
                self.lost = f"it could not be renewed for {self.times.give_up_s:g} s: {error}"

    def free(self) -> None:
        """Gives the lease back. A store that is out of reach will find it expired."""
        with suppress(Unmet, EnvironmentLacks):
            self.place.write(self._content(freed=True), self.tag)

    def _write(self, condition: Any) -> None:
        began = time.monotonic()
        self.beats += 1
        try:
            self.tag = self.place.write(self._content(), condition)
        except Unmet:
            # An answer that got lost is asked for again, and then the first time is in the way of the second.
            tag = self.place.stat().tag
            if _said(self.place).get("token") != self.token:
                raise
            self.tag = tag
        self._renewed = began

    def _watched(self) -> Tag:
        """The tag of a lease that nobody renews. Raises Busy when somebody does."""
        tag, said = self.place.stat().tag, _said(self.place)
        deadline = time.monotonic() + self.times.lasts_s
        while time.monotonic() < deadline and not said.get("freed") and not _died_here(said):
            time.sleep(min(self.times.renew_s / 10, 1.0))
            if self.place.stat().tag != tag:
                raise Busy(self._taken(_said(self.place)))
        return tag

    def _taken(self, said: dict[str, Any]) -> str:
        return (
            f"{self.place.parent}: another run holds this folder ({_named(said)}); "
            "hint: wait for it, or take another --set name=..."
        )

    def _content(self, freed: bool = False) -> bytes:
        said = {
            "token": self.token,
            "beat": self.beats,  # other bytes each time: in many stores the tag is a hash of them
            "host": platform.node(),
            "pid": os.getpid(),
            "machine": _machine(),
            "freed": freed,
        }
        return json.dumps(said).encode()


@contextmanager
def lease(place: StorePath, times: Times | None = None) -> Iterator[Lease]:
    """Holds the lease at `place`, renewed by a thread. When it is lost, this process is interrupted as by Ctrl-C.

    Raises:
        Busy: another holds it, or took it.
        EnvironmentLacks: the store cannot be reached, or cannot lock.
    """
    require_reachable(place)
    held = Lease(place, times or TIMES)
    held.take()
    done = threading.Event()
    renewing = threading.Thread(target=_keep, args=(held, done), name="lease", daemon=True)
    try:
        held.require_conditions()
        renewing.start()
        yield held
    except BaseException as error:
        if held.lost:
            raise Busy(f"{place.parent}: this run lost the folder: {held.lost}; what is finished is kept") from error
        raise
    finally:
        done.set()
        if renewing.is_alive():
            renewing.join()
        held.free()


def _keep(held: Lease, done: threading.Event) -> None:
    while not done.wait(held.times.renew_s) and not held.lost:
        held.renew()
    if held.lost and not done.is_set():
        os.kill(os.getpid(), signal.SIGINT)


def _said(place: StorePath) -> dict[str, Any]:
    """What the lease says of its holder."""
    try:
        said = json.loads(place.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _named(said: dict[str, Any]) -> str:
    return f"process {said.get('pid', '?')} on {said.get('host', 'an unknown machine')}"


def _machine() -> str:
    """What tells this machine, since its start and as this container sees it, from all others."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _died_here(said: dict[str, Any]) -> bool:
    """Whether the holder was a process of this very machine that is no more: then there is nothing to wait for."""
    if not _machine() or said.get("machine") != _machine():
        return False
    try:
        with suppress(PermissionError):  # it lives, and is another user's
            os.kill(int(said["pid"]), 0)
    except ProcessLookupError:
        return True
    return False
