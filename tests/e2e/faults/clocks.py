"""A clock that jumps by days, before a run and in its middle: nothing that is kept depends on the order of times."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from pipeline.storage.verify import verify
from tests.e2e.faults.runs import cli, command, remade, shards, written_at
from tests.e2e.faults.stops import started, tell

DAY_S = 86_400
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int (*read_clock)(clockid_t, struct timespec *);
static double shift, jump, after, began;

static double monotonic(void) {
  struct timespec now;
  read_clock(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}
__attribute__((constructor)) static void set(void) {
  read_clock = dlsym(RTLD_NEXT, "clock_gettime");
  shift = atof(getenv("CLOCK_SHIFT")), jump = atof(getenv("CLOCK_JUMP")), after = atof(getenv("CLOCK_AFTER"));
  began = monotonic();
}
int clock_gettime(clockid_t which, struct timespec *now) {
  if (!read_clock) set();
  int failed = read_clock(which, now);
  if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
    now->tv_sec += shift + (monotonic() - began > after ? jump : 0);
  return failed;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""
"""Preloaded into a command: its clock is `SHIFT` seconds off, and `JUMP` more after some seconds."""


def compiled(folder: Path) -> Path:
    """The clock as a library. Raises FileNotFoundError without a C compiler."""
    library = folder / "clock.so"
    (folder / "clock.c").write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, folder / "clock.c", "-ldl"], check=True)
    return library


def clock(library: Path, shift_s: float, jump_s: float = 0, after_s: float = 1e9) -> dict[str, str]:
    """The environment of a command whose clock is off and jumps."""
    times = {"CLOCK_SHIFT": str(shift_s), "CLOCK_JUMP": str(jump_s), "CLOCK_AFTER": str(after_s)}
    return {"LD_PRELOAD": str(library), **times}


def jumps(inputs: Path, folder: Path, expected: dict[str, bytes], seed: int = 0) -> str:
    """A run that is stopped, goes on a day earlier with a jump in the middle, and is run again two days later."""
    folder.mkdir()
    library = compiled(folder)
    root, run = folder / "runs", folder / "runs" / "faults"
    asked = ("run", inputs / "config.toml", "--root", root)
    running = started(command(*asked), folder, **clock(library, DAY_S, -2 * DAY_S, 0.8))
    time.sleep(random.Random(seed).uniform(0.3, 1.5))
    tell(running, signal.SIGTERM)
    again = cli(*asked, **clock(library, -DAY_S, 2 * DAY_S, 1.0))
    assert again.returncode == 0, again.stderr[-3000:]
    assert shards(run) == expected
    set_times(run, seed)
    when = written_at(run)
    third = cli(*asked, "--json", **clock(library, -3 * DAY_S))
    assert third.returncode == 0, third.stderr[-3000:]
    assert json.loads(third.stdout)["is_new"] is False
    assert remade(when, run) == set()
    assert verify(run).damaged == {}
    fourth = cli(*asked, "--json", "--set", "pairs.max_per_prompt=1", **clock(library, -9 * DAY_S))
    assert json.loads(fourth.stdout)["version"] == 2, fourth.stdout
    created = [json.loads((run / "versions" / f"000{n}.json").read_text())["created"] for n in (1, 2)]
    assert created == sorted(created, reverse=True), "the second version is the older one by this clock"
    return "same shards, no version too many"


def set_times(run: Path, seed: int = 0) -> None:
    """Puts each file's time a day before or after now."""
    pick = random.Random(seed)
    for path in sorted(run.rglob("*.*")):
        if not path.is_symlink():
            at = time.time() + pick.choice((-DAY_S, DAY_S))
            os.utime(path, (at, at))
