"""Ten million completions, replayed from files, through the whole pipeline: rate of each stage, cost and memory as they grow.

    python benchmarks/scale.py [--sizes 100000 10000000] [--peer-rows 100000] [--distilabel PYTHON] [--folder DIR] [--out FILE]

Each size is a run of its own, through its config, on the local executor with confined labelers, receipts, audit and a published
dataset; plain pipelines do the same to fewer rows (scale_peers.py). A first run of a thousand completions says what starting
costs; it is taken off where a cost per completion is quoted, so that sizes compare. CPU seconds are those of all processes.

The largest size takes minutes, in which a shared host's speed drifts: what it is compared with, the smaller sizes and the plain
pipelines, runs before it and again after it, and the mean of all counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this folder has a labelers.py too

import pipeline  # noqa: E402, F401  (before pyarrow, as `python -m pipeline` has it)
from benchmarks.scale_texts import LABELERS, PER_PROMPT, groups, write_files  # noqa: E402

START = 1_000
"""Completions of the run that says what starting costs."""
SMALL = 100_000
"""Sizes up to this are run three times at each moment, and the mean counts: seconds are a shared host's to spoil."""
SHARD_SIZE = 2_000
"""Prompts in a shard."""
PHASES = ("import_prompts", "perform_all", "audit", "publish")
PEERS = (
    ("datasets.map, a row at a time, functions by hand", ("map", "--functions", "plain")),
    ("datasets.map, a row at a time, our labelers", ("map", "--functions", "ours")),
    ("datasets.map in batches, functions by hand", ("map_batched", "--functions", "plain")),
    ("datasets.map in batches, our labelers", ("map_batched", "--functions", "ours")),
    (
        "datasets.map, a row at a time, functions by hand, 2 processes",
        ("map", "--functions", "plain", "--processes", "2"),
    ),
)


def main() -> None:
    """Runs all sizes, then the peers, and prints what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument(
        "--distilabel", metavar="PYTHON", help="of an environment that has distilabel, requests and jsonschema"
    )
    parser.add_argument("--folder", type=Path, help="for the files; about 1 KB a completion")
    parser.add_argument("--out", type=Path, help="where the result is kept as well, after each size")
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(one_run(arguments.side)))
        return
    with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.folder) as folder:
        found: dict[str, Any] = {
            "command": " ".join(sys.argv),
            "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        }
        *smaller, largest = START, *sorted(arguments.sizes)
        runs: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        told: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for sizes in (smaller, [largest], smaller):
            for size in sizes:
                runs[size] += [ours(Path(folder), size) for _ in range(3 if size <= SMALL else 1)]
            if sizes == smaller:
                for name, measured in peers(Path(folder), arguments.peer_rows, arguments.distilabel).items():
                    told[name].append(measured)
            found["sizes"] = {size: typical(each) for size, each in sorted(runs.items())}
            found["peers"] = {name: mean(each) for name, each in told.items()}
            if largest in runs:
                found["per_completion"] = per_completion(found["sizes"])
                found["times_as_fast"] = compared(found)
            say(found, arguments.out)
    print(json.dumps(found, indent=1))


def say(found: dict[str, Any], out: Path | None) -> None:
    """Keeps what is known so far."""
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found.get("per_completion")), file=sys.stderr, flush=True)


def typical(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One size's runs: their mean time, since a long run is as quick as the mean of its moments; else the one in the middle."""
    middle = sorted(runs, key=lambda run: float(run["wall_s"]))[(len(runs) - 1) // 2]
    means = {kind: round(sum(run[kind] for run in runs) / len(runs), 2) for kind in ("wall_s", "cpu_s")}
    peaks = {role: round(sum(run["peak_mb"][role] for run in runs) / len(runs)) for role in middle["peak_mb"]}
    each = [{"wall_s": run["wall_s"], "cpu_s": run["cpu_s"], **run["peak_mb"]} for run in runs]
    return {**middle, **means, "peak_mb": peaks, "each": each}


def mean(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A peer's time over its moments; one that failed once has none."""
    if any("failed" in run for run in runs):
        return {"failed": [run.get("failed", 0) for run in runs]}
    times = [run["wall_s"] for run in runs]
    wall_s = sum(times) / len(times)
    return {**runs[0], "wall_s": wall_s, "rows_per_s": round(runs[0]["rows"] / wall_s), "each_wall_s": times}


def ours(folder: Path, size: int) -> dict[str, Any]:
    """A run of so many completions in a process of its own; its files go when it is done."""
    place = folder / f"of-{size}"
    place.mkdir()
    chars = write_all(place, size // PER_PROMPT)
    (place / "run.toml").write_text(config(place))
    command = [sys.executable, __file__, "--side", str(place)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    used = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    shutil.rmtree(place)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**measured, "characters": round(chars / size, 1), "disk_bytes": used}


def write_all(place: Path, n_prompts: int) -> int:
    """Writes the inputs, a part on each core. Returns the completions' characters."""
    n_parts = os.cpu_count() or 1
    ends = [n_prompts * part // n_parts for part in range(n_parts + 1)]
    with multiprocessing.get_context("spawn").Pool(n_parts) as pool:
        parts = [(place, ends[part], ends[part + 1], part) for part in range(n_parts)]
        return sum(pool.starmap(write_files, parts))


def config(place: Path) -> str:
    """The run's config."""
    prompts, completions = (sorted(str(p) for p in place.glob(f"{kind}-*")) for kind in ("prompts", "completions"))
    labelers = "".join(
        f'[[labelers]]\nuse = "{use}"\nwhere = {{ family = "{family}" }}\n'
        + (f"options = {{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in options.items())} }}\n" if options else "")
        for family, (use, options) in LABELERS.items()
    )
    return f"""name = "scale"
[prompts]
path = {json.dumps(prompts)}
shard_size = {SHARD_SIZE}
fields = {{ target = "target" }}
[[sources]]
name = "files"
engine = {{ use = "replay", path = {json.dumps(completions)} }}
{labelers}"""


def one_run(place: Path) -> dict[str, Any]:
    """The run in `place`, measured."""
    from pipeline import run as module
    from pipeline.config import load

    phases: dict[str, dict[str, float]] = {}
    for name in PHASES:
        setattr(module, name, timed(getattr(module, name), phases.setdefault(name, {})))
    watch = Watch()
    with watch:
        started = time.monotonic()
        finished = module.run(load(place / "run.toml"), place)
        wall = time.monotonic() - started
    if finished.failed or finished.audited is None or finished.audited.failed:
        raise SystemExit(f"the run failed: {finished.failed or finished.audited}")
    rows = sum(family.completions for family in finished.families)
    return {
        "completions": rows,
        "pairs": finished.rows,
        "audit": finished.audited.state,
        "wall_s": round(wall, 2),
        "cpu_s": round(sum(watch.cpu_s.values()), 2),
        "cpu_s_by_role": watch.by_role(),
        "peak_mb": {role: max(peaks.values()) for role, peaks in watch.peak_mb.items()},
        "phases": phases,
        "stages": stages(place / "scale", rows),
    }


def timed(function: Any, into: dict[str, float]) -> Any:
    """The function, which writes down how long it took, and the most memory that this process has had by then."""

    def call(*given: Any, **named: Any) -> Any:
        wall, cpu = time.monotonic(), time.process_time()
        try:
            return function(*given, **named)
        finally:
            into.update({"wall_s": round(time.monotonic() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)})
            into["peak_mb_so_far"] = peak_mb("self") or 0

    return call


def stages(run: Path, rows: int) -> dict[str, dict[str, float]]:
    """Completions and seconds of each stage, from the receipts; seconds are those of its own work, side by side with others."""
    found: defaultdict[str, dict[str, float]] = defaultdict(lambda: {"completions": 0, "seconds": 0.0})
    for receipt in run.glob("*-*/[0-9]*.json"):
        said = json.loads(receipt.read_text())
        stage = found[receipt.parent.name.rpartition("-")[0]]
        stage["completions"] += said["rows"]
        stage["seconds"] += said["seconds"]
    found["pairs"]["completions"] = rows
    return {
        name: {**stage, "per_second": round(stage["completions"] / max(stage["seconds"], 1e-9))}
        for name, stage in sorted(found.items())
    }


@dataclass
class Watch:
    """Looks at this process and all below it, twice a second: CPU seconds and the kernel's own high-water marks."""

    cpu_s: dict[int, float] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    peak_mb: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look_on)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def by_role(self) -> dict[str, float]:
        """CPU seconds of the run, its workers and its labelers."""
        found: defaultdict[str, float] = defaultdict(float)
        for pid, seconds in self.cpu_s.items():
            found[self.roles[pid]] += seconds
        return {role: round(seconds, 2) for role, seconds in found.items()}

    def _look_on(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            over = self._over.wait(0.5)
            for process in (me, *me.children(recursive=True)):
                try:
                    self._look(process, "run" if process.pid == me.pid else "")
                except (psutil.Error, OSError):
                    continue  # it has ended since
            if over:
                return

    def _look(self, process: Any, role: str) -> None:
        pid = process.pid
        if pid not in self.roles:
            command = " ".join(process.cmdline())
            self.roles[pid] = role or ("worker" if "multiprocessing.spawn" in command else "labeler")
        spent = process.cpu_times()
        self.cpu_s[pid] = spent.user + spent.system
        if peak := peak_mb(pid):
            self.peak_mb[self.roles[pid]][pid] = peak


def peak_mb(pid: int | str) -> int | None:
    """The kernel's high-water mark of a process's memory; None of one that has ended and is not buried."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1024 if found else None


def per_completion(sizes: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Microseconds a completion beyond starting, for each size, and the last over the first; the same for peaks of memory."""
    start = sizes[START]
    found: dict[str, Any] = {}
    for kind in ("cpu_s", "wall_s"):
        each = {n: round(1e6 * (m[kind] - start[kind]) / (n - START), 2) for n, m in sizes.items() if n != START}
        found[kind.replace("_s", "_us")] = each
        if len(each) > 1:
            first, *_, last = each.values()
            found[kind.replace("_s", "_growth")] = round(last / first, 3)
    peaks = {n: m["peak_mb"] for n, m in sizes.items() if n != START}
    if len(peaks) > 1:
        first, *_, last = peaks.values()
        found["peak_growth"] = {role: round(last[role] / first[role], 3) for role in first}
    return found


def peers(folder: Path, rows: int, distilabel: str | None) -> dict[str, Any]:
    """What plain pipelines take for so many rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = [
        {"prompt": g.prompt, "target": json.dumps(g.target), "family": g.family, "completion": text}
        for g in groups(0, rows // PER_PROMPT)
        for text in g.completions
    ]
    pq.write_table(pa.Table.from_pylist(made), folder / "rows.parquet")
    asked = [(name, [sys.executable], options) for name, options in PEERS]
    if distilabel:
        asked.append(("distilabel, functions by hand", [distilabel], ("distilabel", "--functions", "plain")))
    return {name: peer(folder, python, options) for name, python, options in asked}


def peer(folder: Path, python: Sequence[str], options: Sequence[str]) -> dict[str, Any]:
    """One peer, in a process of its own."""
    out = folder / "peer"
    out.mkdir()
    kind, *others = options
    command = [*python, str(ROOT / "benchmarks" / "scale_peers.py"), kind, str(folder), str(out), *others]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    shutil.rmtree(out)
    if done.returncode:
        return {"failed": done.returncode}
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compared(found: dict[str, Any]) -> dict[str, float]:
    """Rows a second of the largest size over those of each peer."""
    largest = found["sizes"][max(found["sizes"])]
    rate = largest["completions"] / largest["wall_s"]
    return {name: round(rate / m["rows_per_s"], 2) for name, m in found["peers"].items() if "rows_per_s" in m}


if __name__ == "__main__":  # the pools' processes import this module
    main()
