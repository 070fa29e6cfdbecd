"""`python -m tests.e2e.faults`: every fault in its full number, the outcomes counted and written down (docs/faults.md).

python -m tests.e2e.faults --full                 # all parts: some ten minutes on two idle cores
python -m tests.e2e.faults disks stops --n 3      # some parts, smaller
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.run import run
from tests.e2e.faults import changes, clocks, damages, disks, races, secrets, stops
from tests.e2e.faults.runs import config, shards, write_inputs

Case = tuple[str, Callable[[], Any]]
FULL = {"damages": 40, "notes": 20, "disks": 20, "races": 20, "stops": 20, "clocks": 3, "changes": 14, "secrets": 1}
MUST = "benchmarks/results/2026-11-21-faults-cpu.json"


class Cases:
    """What is tried, in a scratch folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.inputs = folder / "inputs"
        write_inputs(self.inputs, more="")
        run(config(self.inputs), folder / "undisturbed")
        self.expected = shards(folder / "undisturbed" / "faults")

    def damages(self, n: int) -> Iterator[Case]:
        """Spoiled shards."""
        ground = damages.Ground(self.folder / "damages")
        for each in damages.damages(n, self.seed):
            yield str(each), partial(damages.survives, ground, each)

    def notes(self, n: int) -> Iterator[Case]:
        """Torn receipts, manifests and pointers."""
        ground = damages.Ground(self.folder / "notes")
        for each in damages.tears(n, self.seed):
            yield str(each), partial(damages.survives, ground, each)

    def disks(self, n: int) -> Iterator[Case]:
        """Full disks, a limit on files, a permission that is lost."""
        most = disks.used_by(self.folder / "undisturbed")
        for i in range(n):
            size = disks.PAGE * (2 + int((most / disks.PAGE - 2) * i / n))
            yield f"disk of {size} bytes", partial(disks.fills_up, self.inputs, size, self.expected)
        grown = partial(disks.files_may_not_grow, self.inputs, 3000, self.folder / "grown", self.expected)
        yield "files of at most 3000 bytes", grown
        yield "permission lost", partial(disks.loses_permission, self.inputs, self.folder / "rights", self.expected)

    def races(self, n: int) -> Iterator[Case]:
        """Four starters at once."""
        for i in range(n):
            yield f"race {i}", partial(races.race, self.inputs, self.folder / f"race{i}")

    def stops(self, n: int) -> Iterator[Case]:
        """Signals at random moments, and while a labeler thinks."""
        pick = random.Random(self.seed)
        for i in range(n):
            number = signal.SIGINT if i % 4 == 3 else signal.SIGTERM
            files, after = pick.randrange(2 * len(self.expected) + 8), pick.uniform(0, 0.1)
            name = f"{number.name} {after:.3f} s after file {files}"
            yield name, partial(stops.stops, self.inputs, files, after, number, self.expected)
        for times in (1, 2):
            name = f"Ctrl-C {times} times while a labeler thinks"
            yield name, partial(stops.stops_while_busy, self.folder / f"busy{times}", times)

    def clocks(self, n: int) -> Iterator[Case]:
        """Clocks that jump by days."""
        for i in range(n):
            yield f"clock {i}", partial(clocks.jumps, self.inputs, self.folder / f"clock{i}", self.expected, i)

    def changes(self, n: int) -> Iterator[Case]:
        """Something else is wanted before a run goes on."""
        ground = self.folder / "ground"
        write_inputs(ground)
        changes.half_finished(ground)
        for i, change in enumerate(changes.changes()[:n]):
            yield change.name, partial(changes.makes_what_depends, ground, self.folder / f"change{i}", change)

    def secrets(self, n: int) -> Iterator[Case]:
        """Keys and tokens."""
        yield "canaries", partial(secrets.keeps_secrets, self.inputs, self.folder / "secrets")


def main() -> None:
    """Tries the parts and writes down what came of them. Exits 1 when something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.faults")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(FULL)}; none is all")
    parser.add_argument("--full", action="store_true", help="the numbers that docs/faults.md states")
    parser.add_argument("--n", type=int, default=3, help="of each part, without --full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help=f"a JSON file, as {MUST}; parts are added to it")
    chosen = parser.parse_args()
    told = {"command": f"python -m tests.e2e.faults {' '.join(sys.argv[1:])}", "machine": platform.platform()}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        cases = Cases(Path(folder), chosen.seed)
        for part in chosen.parts or FULL:
            n = FULL[part] if chosen.full else min(chosen.n, FULL[part])
            found = tried(part, getattr(cases, part)(n))
            write(chosen.out, {**told, "parts": {part: found}})
            told["failed"] = told.get("failed", 0) + len(found["failed"])
    sys.exit(1 if told["failed"] else 0)


def tried(part: str, cases: Iterator[Case]) -> dict[str, Any]:
    """What came of each case of a part, a line each on stderr."""
    came: Counter[str] = Counter()
    failed, seconds = {}, []
    for name, attempt in cases:
        began = time.monotonic()
        try:
            said = str(attempt() or "found, named, made again alone")
        except Exception as error:  # the next case is tried all the same, and the exit code says so
            said = f"{type(error).__name__}: {error}"[-3000:]
            failed[name] = said
        else:
            came[said.partition(" in ")[0]] += 1
        seconds.append(round(time.monotonic() - began, 1))
        print(f"{part}: {name}: {said} ({seconds[-1]} s)", file=sys.stderr, flush=True)
    return {"tried": len(seconds), "came to": dict(came), "failed": failed, "seconds": sum(seconds)}


def write(out: Path | None, told: dict[str, Any]) -> None:
    """Adds parts to the file, or prints them."""
    if out is None:
        print(json.dumps(told["parts"], indent=1))
        return
    before = json.loads(out.read_text()) if out.is_file() else {"parts": {}}
    out.write_text(json.dumps({**told, "parts": {**before["parts"], **told["parts"]}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
