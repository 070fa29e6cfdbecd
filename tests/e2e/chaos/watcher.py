"""Looks at every file of a run that has its final name, over and over, while runs are killed: each must be whole.

    python -m tests.e2e.chaos.watcher FOLDER

Ends when its input does, and says what it saw as JSON: how often it looked, how many files it read, and which were not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Seen:
    """What a watcher saw.

    Args:
        looks: times that it went through the folder.
        files: files that it read, each content once.
        torn: files that were not whole, and why.
    """

    looks: int = 0
    files: int = 0
    torn: list[str] = field(default_factory=list)


@contextmanager
def watched(folder: Path) -> Iterator[Seen]:
    """What is seen in `folder` meanwhile, in another process; complete when the context is left."""
    command = [sys.executable, "-m", "tests.e2e.chaos.watcher", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seen = Seen()
    try:
        yield seen
    finally:
        said, _ = process.communicate()
        seen.__dict__.update(json.loads(said))


def main() -> None:
    """Looks until the input ends."""
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    seen, known = Seen(), set[tuple[str, int, int, int]]()
    while True:
        last = done.is_set()  # whatever was there when the input ended is looked at once more
        look(Path(sys.argv[1]), known, seen)
        if last:
            break
        done.wait(0.01)
    print(json.dumps(seen.__dict__))


def look(folder: Path, known: set[tuple[str, int, int, int]], seen: Seen) -> None:
    """Reads what is new or has changed under its final name."""
    seen.looks += 1
    for name in finals(str(folder)):
        try:
            facts = os.stat(name)
        except FileNotFoundError:
            continue
        mark = (name, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if mark in known:
            continue
        known.add(mark)
        seen.files += 1
        if wrong := torn(Path(name)):
            seen.torn.append(f"{name}: {wrong}")


def finals(folder: str) -> Iterator[str]:
    """Files without a dot before their name, in folders without one."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from finals(entry.path)
        elif entry.name.endswith((".json", ".parquet", ".md")):
            yield entry.path


def torn(path: Path) -> str:
    """Why the file is not whole; empty where it is, or is gone by now."""
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                file.read()
        elif path.suffix == ".json":
            return _untrue(path, json.loads(path.read_text(encoding="utf-8")))
        elif not path.read_text(encoding="utf-8").endswith("\n"):
            return "its last line does not end"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _untrue(path: Path, said: object) -> str:
    """What is wrong with a receipt: it must vouch for the shard that is there."""
    shard = path.with_suffix(".parquet")
    if not isinstance(said, dict) or "sha256" not in said or "inputs" not in said:
        return ""
    try:
        content = shard.read_bytes()
    except FileNotFoundError:
        return "the receipt vouches for a shard that is not there" if path.exists() else ""
    same = hashlib.sha256(content).hexdigest() == said["sha256"]
    return "" if same else "the receipt vouches for another shard than the one beside it"


if __name__ == "__main__":
    main()
