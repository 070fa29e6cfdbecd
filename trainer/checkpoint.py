"""Checkpoints that are whole or absent: written beside, flushed, the manifest with hashes last, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.errors import UsageError

STATE = "state.pt"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int
    fingerprint: str


def file_sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """The file's or folder's content is on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """A small file, whole or absent."""
    staged = path.with_name(f".{path.name}.staged")
    staged.write_text(text)
    flush(staged)
    staged.replace(path)
    flush(path.parent)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], fingerprint: str, keep: int) -> Path:
    """Writes `folder/step-<step>` and removes all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    staging = folder / f".staging-{step:08d}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    torch.save(state, staging / STATE)
    flush(staging / STATE)
    manifest = {"step": step, "fingerprint": fingerprint, "sha256": {STATE: file_sha256(staging / STATE)}}
    write_text(staging / MANIFEST, json.dumps(manifest, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    staging.rename(final)
    flush(folder)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    for leftover in folder.glob(".staging-*"):
        shutil.rmtree(leftover)
    return final


def read_manifest(path: Path) -> Checkpoint | None:
    """The checkpoint at this path when it is whole, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if any(file_sha256(path / name) != digest for name, digest in manifest["sha256"].items()):
            return None
        return Checkpoint(path, int(manifest["step"]), str(manifest["fingerprint"]))
    except (OSError, ValueError, KeyError):
        return None


def newest_whole(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint to go on from; None when there is none.

    Raises:
        UsageError: it was written by a run with other options, model or data.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        found = read_manifest(path)
        if found is None:
            print(f"trainer: {path} is not whole, looking at the one before", file=sys.stderr)
        elif found.fingerprint != fingerprint:
            raise UsageError(
                f"{path} belongs to a run with other options, model or data; hint: choose another --out, "
                "or start over with --resume never"
            )
        else:
            return found
    return None


def load_state(found: Checkpoint, device: torch.device) -> dict[str, Any]:
    """What `save_checkpoint` was given."""
    state: dict[str, Any] = torch.load(found.path / STATE, map_location=device, weights_only=True)
    return state
