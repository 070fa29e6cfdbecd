"""The part of the doctor that looks at what labelers are confined by and at the programs that they start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from labelers import programs
from labelers.confine import REMEDY, REQUIRED, landlock_abi, probe
from labelers.errors import LabelerError
from labelers.program_view import install_hint
from pipeline.doctor.findings import Finding

DOES = {
    "rlimits": "bounds memory and files of a labeler's process",
    "no_new_privs": "no program gives it new rights",
    "seccomp": "it may compute and use its pipe, nothing else",
    "landlock": "no file, a second wall behind seccomp",
    "namespaces": "an empty network, a second wall behind seccomp",
}
COMPILERS = {
    "gcc": "compiles (c)",
    "g++": "compiles (cpp)",
    "node": "compiles (javascript)",
    "javac": "compiles (java)",
    "go": "compiles (go)",
    "rustc": "compiles (rust)",
    "bash": "compiles (bash)",
}
"""program -> what cannot be labelled without it."""


def _wall(completions: bool) -> str | LabelerError:
    """What confines programs here, or why nothing can."""
    try:
        return programs.wall(completions)
    except LabelerError as error:
        return error


def _groups_writable() -> bool:
    """Whether a control group can be made here, found by making one."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()[-1].rpartition(":")[2]
        trial = Path("/sys/fs/cgroup") / own.lstrip("/") / f"doctor-{os.getpid()}"
        trial.mkdir()
        trial.rmdir()
    except (OSError, IndexError):
        return False
    return True


@dataclass(frozen=True)
class IsolationProbes:
    """How the machine is asked; a test replaces what it wants to pretend."""

    layers: Callable[[], Mapping[str, str]] = probe
    abi: Callable[[], int] = landlock_abi
    wall: Callable[[bool], str | LabelerError] = _wall
    which: Callable[[str], str | None] = shutil.which
    groups: Callable[[], bool] = _groups_writable


def isolation(probes: IsolationProbes) -> list[Finding]:
    """The layers that confine labelers, the sandbox for programs, control groups, and each compiler."""
    layers = [_layer(name, why, probes.abi) for name, why in probes.layers().items()]
    return [*layers, _bubblewrap(probes), _groups(probes.groups()), _compilers(probes.which)]


def _layer(name: str, why: str, abi: Callable[[], int]) -> Finding:
    shown = f"{name}, ABI {abi()}" if name == "landlock" and not why else name
    if not why:
        return Finding(f"isolation: {shown}", "ok", DOES[name])
    if name in REQUIRED:
        lost = f"{why}; no labeler is run without it unless the config says accept_weaker"
        return Finding(f"isolation: {name}", "fail", lost, REMEDY[name])
    return Finding(f"isolation: {name}", "warn", f"{why}; labelers run without: {DOES[name]}", REMEDY[name])


def _bubblewrap(probes: IsolationProbes) -> Finding:
    name, both = "isolation: bubblewrap", probes.wall(True)
    if isinstance(both, str):
        return Finding(name, "ok", "compilers and completions (`tests`) run in it")
    alone = probes.wall(False)
    if isinstance(alone, str):
        lost = f"{both.what}; `tests` refuses, compilers run under {alone} alone"
    else:
        lost = f"{both.what}; `tests` and every compiler but Python's own refuse"
    return Finding(name, "warn", lost, both.hint)


def _groups(writable: bool) -> Finding:
    name = "isolation: cgroups"
    if writable:
        return Finding(name, "ok", "a sandbox's processes and memory are bounded together")
    lost = "cannot be made here; each program is bounded alone, many of one sandbox are not bounded together"
    return Finding(name, "warn", lost, "nothing needs it; else run as root where /sys/fs/cgroup is writable")


def _compilers(which: Callable[[str], str | None]) -> Finding:
    there = [name for name in COMPILERS if which(name)]
    lost = [name for name in COMPILERS if name not in there]
    if not lost:
        return Finding("compilers", "ok", ", ".join(there))
    what = ", ".join(f"{name} for {COMPILERS[name]}" for name in lost)
    detail = f"{', '.join(there) or 'none'}; not installed: {what}"
    return Finding("compilers", "warn", detail, "; ".join(install_hint(name) for name in lost))
