"""What a refresh costs where nothing changed, with 1 % new prompts, and with another labeler: replayed completions, real files.

python benchmarks/refresh.py build /tmp/refreshes      # once, minutes: 60 to 50,000 prompts, four completions each
python benchmarks/refresh.py measure /tmp/refreshes > benchmarks/results/...-refresh-cpu.json
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.pipeline.refreshing import prompt, texts  # noqa: E402  the path is set above

SIZES = (60, 1_000, 8_000, 50_000)
REPEATS = 3
STARTUP = "import pipeline.cli.main, pipeline.config, pipeline.refreshing.refresh, pipeline.run"


class Taken(NamedTuple):
    """Seconds by the clock on the wall, and of all cores."""

    wall: float
    cpu: float


def write(folder: Path, n: int, labeler: str = "compiles") -> None:
    """The config and its prompts; completions are there for 1 % more."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt(i)}) + "\n" for i in range(n)))
    (folder / "config.toml").write_text(
        'name = "grown"\n[prompts]\npath = "prompts.jsonl"\n[[sources]]\nname = "people"\n'
        'engine = { use = "replay", path = "completions.jsonl" }\n'
        f'[[labelers]]\nuse = "{labeler}"\nname = "compiles"\nwhere = {{}}\n'
    )


def build(folder: Path, n: int) -> None:
    """The first version of a run of `n` prompts."""
    write(folder, n)
    rows = ({"prompt": prompt(i), "completion": texts(i)} for i in range(n + n // 100 + 1))
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refresh(folder)


def refresh(folder: Path, *more: str) -> tuple[Taken, dict[str, Any]]:
    """What the command took, start-up included, and what it printed."""
    command = [sys.executable, "-m", "pipeline", "refresh", "config.toml", "--json", *more]
    taken, out = timed(command, folder)
    return taken, json.loads(out)


def timed(command: list[str], folder: Path) -> tuple[Taken, str]:
    """What a command took with all its processes, and what it printed."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=env(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(time.monotonic() - started, cpu), done.stdout


def env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def start_up() -> Taken:
    """What Python takes to import what a refresh imports."""
    return timed([sys.executable, "-c", STARTUP], ROOT)[0]


def measure(folder: Path, n: int) -> dict[str, Any]:
    """The figures of one size; the run is as it was built before and has 1 % more prompts afterwards."""
    pairs = [(refresh(folder), start_up()) for _ in range(REPEATS)]  # in turns: a busy machine is busy for both
    if any(said["is_new"] for (_, said), _ in pairs):
        raise RuntimeError(f"{n} prompts: a version was made where nothing changed")
    found: dict[str, Any] = {"prompts": n}
    for clock in ("wall", "cpu"):
        whole = statistics.median(getattr(taken, clock) for (taken, _), _ in pairs)
        imports = statistics.median(getattr(taken, clock) for _, taken in pairs)
        found |= {f"unchanged_{clock}_s": whole, f"start_up_{clock}_s": imports, f"beyond_{clock}_s": whole - imports}
    return {name: round(value, 2) for name, value in {**found, **grown(folder, n)}.items()}


def grown(folder: Path, n: int) -> dict[str, Any]:
    """What 1 % new prompts, and then another option of the labeler, have sampled."""
    write(folder, n + max(1, n // 100))
    taken, said = refresh(folder)
    new = sampled(folder)
    relabelled, again = refresh(folder, "--set", "labelers.0.timeout_s=3.0")
    return {
        "one_percent_cpu_s": taken.cpu,
        "one_percent_sampled_percent": 100 * new / n,
        "rows_added": said["diff"]["added"],
        "relabelled_cpu_s": relabelled.cpu,
        "relabelled_sampled": sampled(folder),
        "relabelled_is_new": int(again["is_new"]),
    }


def sampled(folder: Path) -> int:
    """Prompts that the newest start had to sample."""
    found: int = json.loads((folder / "runs" / "grown" / "live.json").read_text())["prompts"][1]
    return found


def main() -> None:
    """Builds, or measures and prints JSON."""
    what, root = sys.argv[1], Path(sys.argv[2])
    sizes = [int(size) for size in sys.argv[3:]] or SIZES
    if what == "build":
        for n in sizes:
            build(root / str(n), n)
        return
    cores = os.cpu_count()
    found = {"command": " ".join(sys.argv), "machine": f"{platform.machine()}, {cores} cores", "repeats": REPEATS}
    print(json.dumps({**found, "sizes": [measure(root / str(n), n) for n in sizes]}, indent=1))


if __name__ == "__main__":
    main()
