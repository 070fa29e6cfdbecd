"""A lock in a store: one holder at a time, and none for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import Busy, EnvironmentLacks
from pipeline.run import locked
from pipeline.storage.folders import remove
from pipeline.storage.lease import Lease, Times, lease
from pipeline.storage.stores import StorePath, place_of
from tests.s3 import S3

ROOT = Path(__file__).resolve().parents[2]
QUICK = Times(renew_s=0.1, lasts_s=1.5, give_up_s=1.0)


@pytest.fixture
def place():
    """A lease's place in the memory of this process."""
    folder = place_of("memory://leases")
    yield folder / "run" / ".lock"
    remove(folder)


@pytest.fixture
def elsewhere(monkeypatch):
    """From now on, what is held is held by another machine."""
    return lambda: monkeypatch.setattr("pipeline.storage.lease._machine", lambda: "another")


def test_who_comes_second_is_told_who_holds_it(place):
    with (
        lease(place, QUICK),
        pytest.raises(Busy, match=rf"another run holds this folder \(process {os.getpid()} on .*hint: wait"),
    ):
        Lease(place, QUICK).take()


def test_what_was_given_back_is_free_at_once(place):
    with lease(place, QUICK):
        pass
    begun = time.monotonic()
    with lease(place, Times()):
        assert time.monotonic() - begun < 30


def test_a_holder_that_does_not_renew_loses_it_to_who_watched_long_enough(place, elsewhere):
    Lease(place, QUICK).take()
    elsewhere()
    begun = time.monotonic()
    with lease(place, QUICK):
        assert time.monotonic() - begun >= QUICK.lasts_s


def test_a_process_of_this_machine_that_died_is_not_waited_for(place):
    gone = subprocess.Popen(["true"])
    gone.wait()
    Lease(place, QUICK).take()
    place.write(json.dumps({**json.loads(place.read_bytes()), "pid": gone.pid}).encode())
    begun = time.monotonic()
    with lease(place, Times()):
        assert time.monotonic() - begun < 30


def test_of_two_who_find_it_free_one_gets_it(place, elsewhere):
    Lease(place, QUICK).take()
    elsewhere()
    takers = [Lease(place, QUICK) for _ in range(6)]

    def take(one: Lease) -> bool:
        try:
            one.take()
        except Busy:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, takers)) == 1


def hold(place: StorePath, then: Callable[[], object]) -> None:
    """Holds the lease and works for long; `then` is what happens meanwhile."""
    with lease(place, QUICK):
        then()
        time.sleep(20)


def test_a_holder_whose_lease_was_taken_is_interrupted_and_says_by_whom(place):
    with pytest.raises(Busy, match=r"this run lost the folder: it was taken by process 7 on mars"):
        hold(place, lambda: place.write(b'{"pid": 7, "host": "mars"}'))


def test_a_holder_that_cannot_renew_stops_before_another_may_take_it(place, monkeypatch):
    def unreachable(self, content, condition="overwrite"):
        raise EnvironmentLacks("the store does not answer")

    begun = time.monotonic()
    with pytest.raises(Busy, match=r"could not be renewed for 1 s"):
        hold(place, lambda: monkeypatch.setattr(StorePath, "write", unreachable))
    assert QUICK.give_up_s < time.monotonic() - begun < 20


def test_a_renewal_whose_answer_was_lost_is_no_loss(place, monkeypatch):
    held = Lease(place, QUICK)
    held.take()
    write = StorePath.write

    def answer_lost(self, content, condition="overwrite"):
        write(self, content, condition)
        return write(self, content, condition)  # as a client asks again: its own first time is in its way

    monkeypatch.setattr(StorePath, "write", answer_lost)
    held.renew()
    monkeypatch.undo()
    held.renew()
    assert held.lost == ""


def test_a_store_that_ignores_conditions_is_refused(place, monkeypatch):
    write = StorePath.write
    monkeypatch.setattr(StorePath, "write", lambda self, content, condition="overwrite": write(self, content))
    with (
        pytest.raises(EnvironmentLacks, match=r"ignores If-None-Match.*hint: a store that writes on a condition"),
        lease(place, QUICK),
    ):
        pass


def test_an_error_inside_is_the_callers_and_gives_the_lease_back(place):
    with pytest.raises(ValueError, match="mine"), lease(place, QUICK):
        raise ValueError("mine")
    assert json.loads(place.read_bytes())["freed"]


def test_a_lease_is_renewed_while_it_is_held(place):
    with lease(place, QUICK) as held:
        time.sleep(2 * QUICK.lasts_s)
        assert held.lost == ""
        assert held.beats > 5


HOLD = """
import sys, time
from pipeline.storage.lease import Times
from pipeline.storage import lease
lease.TIMES = Times(0.2, 5.0, 4.0)
from pipeline.errors import Busy
from pipeline.run import locked
from pipeline.storage.stores import place_of
try:
    with locked(place_of(sys.argv[1])):
        print("holds", flush=True)
        time.sleep(3)
except Busy:
    print("busy", flush=True)
"""


def test_of_four_processes_that_start_at_once_one_holds_the_folder(s3: S3):
    command = [sys.executable, "-c", HOLD, "s3://runs/race"]
    four = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in four)
    assert said == ["busy", "busy", "busy", "holds"]


def test_a_killed_holder_of_a_runs_folder_leaves_it_to_the_next(s3: S3):
    command = [sys.executable, "-c", HOLD, "s3://runs/killed"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "holds\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with locked(place_of("s3://runs/killed")) as held:
        assert held is None
