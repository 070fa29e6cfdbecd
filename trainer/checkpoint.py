"""Checkpoints that are whole or absent, in torch.distributed.checkpoint's format, from one rank or many.

Every rank writes its part beside, flushed; then the manifest with every file's hash and its own; then the rename. What is read
is only what the manifest vouches for, so a checkpoint that is truncated, flipped, mixed or another run's is never trained from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from trainer.errors import TrainerError, UsageError
from trainer.ranks import Ranks

MANIFEST = "manifest.json"
SEAL = "manifest_sha256"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk; `progress` is what its run knew besides tensors (JSON)."""

    path: Path
    step: int
    fingerprint: str
    progress: dict[str, Any] = field(default_factory=dict)


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


def seal(content: dict[str, Any]) -> str:
    """The hash of a manifest's content, which it carries itself: a flipped digit in it does not pass."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """torch warns that one process saves alone, also when told so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield


def save_checkpoint(
    folder: Path, found: Checkpoint, state: dict[str, Any], ranks: Ranks, keep: int, best: int | None = None
) -> None:
    """Writes `found` at its path, which is in `folder`, and removes older ones. Every rank calls it.

    Args:
        state: nested dicts of tensors; of a cut tensor every rank writes its piece.
        keep: how many to keep, besides the one of step `best`.
    """
    staging = folder / f".staging-{found.step:08d}"
    if ranks.is_first:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    ranks.wait()
    with _alone_is_fine():
        save(state, checkpoint_id=staging, no_dist=ranks.size == 1)
    own = {p.name: file_sha256(p) for p in staging.iterdir() if p.name.startswith(f"__{ranks.rank}_")}
    hashes = {name: digest for part in ranks.gather(own) for name, digest in part.items()}
    if ranks.is_first:
        for path in staging.iterdir():
            flush(path)
            hashes.setdefault(path.name, file_sha256(path))
        _seal_and_name(staging, found, hashes)
        _remove_old(folder, keep, best)
    ranks.wait()


def _seal_and_name(staging: Path, found: Checkpoint, hashes: dict[str, str]) -> None:
    content = {"step": found.step, "fingerprint": found.fingerprint, "progress": found.progress, "sha256": hashes}
    write_text(staging / MANIFEST, json.dumps({**content, SEAL: seal(content)}, indent=1))
    shutil.rmtree(found.path, ignore_errors=True)
    staging.rename(found.path)
    flush(found.path.parent)


def _remove_old(folder: Path, keep: int, best: int | None) -> None:
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if best is None or old != path_of(folder, best):
            shutil.rmtree(old)
    for leftover in folder.glob(".staging-*"):
        shutil.rmtree(leftover)


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after this step lies."""
    return folder / f"step-{step:08d}"


def read_whole(path: Path) -> Checkpoint | None:
    """The checkpoint at this path when it is whole and under its own name, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest.pop(SEAL) != seal(manifest) or path_of(path.parent, manifest["step"]) != path:
            return None
        if any(file_sha256(path / name) != digest for name, digest in manifest["sha256"].items()):
            return None
        return Checkpoint(path, manifest["step"], manifest["fingerprint"], manifest["progress"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def newest_whole(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint to go on from; None when there is none.

    Raises:
        UsageError: it was written by a run with other options, model or data.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        found = read_whole(path)
        if found is None:
            print(f"trainer: {path} is not whole, looking at the one before", file=sys.stderr)
        elif found.fingerprint != fingerprint:
            raise UsageError(
                f"{path} belongs to a run with other options, model or data; hint: choose another --out, "
                "or start over with --resume never"
            )
        else:
            return found
    if any(folder.glob("step-*")):
        print("trainer: no whole checkpoint is left, starting over", file=sys.stderr)
    return None


def load_state(found: Checkpoint, state: dict[str, Any], ranks: Ranks) -> None:
    """Fills the tensors of `state`, shaped like the one that was saved, however it was cut then. Every rank calls it.

    Raises:
        TrainerError: the checkpoint holds other tensors than these.
    """
    with _alone_is_fine():
        try:
            load(state, checkpoint_id=found.path, no_dist=ranks.size == 1)
        except (CheckpointException, RuntimeError) as error:
            raise TrainerError(
                f"{found.path} does not fit this model: {str(error)[:200]}; hint: start over with --resume never"
            ) from error
