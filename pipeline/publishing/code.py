"""Which code made a dataset: the package's version, the commit, and a hash of what really ran."""

from __future__ import annotations

import functools
import hashlib
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2]
PACKAGES = ("labelers", "pipeline")


@functools.cache
def source_sha256() -> str:
    """The hash of every source file of the packages that make labels and pairs; 16 digits of SHA-256."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (HOME / package).rglob("*.py")):
        digest.update(f"{path.relative_to(HOME).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def code() -> dict[str, Any]:
    """Version, source hash, and where the code is a git checkout its commit and whether the sources differ from it."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", *PACKAGES) if commit else None
    return {
        "version": metadata.version("preference-pipeline"),
        "source_sha256": source_sha256(),
        "git_commit": commit,
        "is_changed": None if changed is None else bool(changed),
    }


def _git(*arguments: str) -> str | None:
    """What git says; None where there is no git or no checkout."""
    if not (HOME / ".git").exists():
        return None
    command = ["git", "-C", str(HOME), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
