"""What a program may see of the machine: where it is, and the folders that it reads. Standard library only."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from labelers.errors import LabelerError

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Folders of the system; on most machines all but the first are links into it."""
SETTINGS = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/java-*", "/etc/ssl/openssl.cnf")
"""Links and settings that interpreters and compilers follow; nothing that tells of users or networks."""
_PACKAGES = {
    "gcc": "gcc", "g++": "g++", "node": "nodejs", "javac": "default-jdk-headless", "go": "golang-go", "gofmt": "golang-go",
    "rustc": "rustc", "bash": "bash", "bwrap": "bubblewrap",
}  # fmt: skip


def located(name: str) -> Path:
    """The real file behind a program's name. `python3` is the Python that runs this, without its virtual environment.

    Raises:
        LabelerError: it is not installed.
    """
    if name == "python3":
        return Path(sys.executable).resolve()
    found = shutil.which(name)
    if found is None:
        raise LabelerError(f"{name} is not installed", hint=install_hint(name))
    real = Path(found).resolve()
    if real.name == "rustup":
        return _rust()
    return Path(found) if real.parent == Path("/usr/bin") else real


def install_hint(name: str) -> str:
    """How to get a program, in a few words."""
    return f"apt-get install {_PACKAGES.get(name, name)}, or put it on the PATH"


@functools.cache
def _rust() -> Path:
    """rustup's `rustc` is only a switch; the compiler lies in the toolchain that it picks."""
    try:
        asked = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise LabelerError(f"rustc does not say where it lies: {error}", hint="rustup default stable") from error
    return Path(asked.stdout.strip()) / "bin" / "rustc"


def folders(programs: Iterable[Path]) -> list[str]:
    """What to show to these programs, read-only: the system's folders, some settings, and each program's own folder."""
    shown = [path for path in SYSTEM if os.path.isdir(path)]
    shown += [str(path) for pattern in SETTINGS for path in sorted(Path("/").glob(pattern[1:]))]
    for program in programs:
        own = str(_home(program))
        if not any(own == folder or own.startswith(folder + "/") for folder in shown):
            shown.append(own)
    return shown


def _home(program: Path) -> Path:
    """The folder of an installation: `/opt/x` for `/opt/x/bin/x`; only the file itself where that would be too much."""
    if program == Path(sys.executable).resolve():
        return Path(sys.base_prefix).resolve()
    home = program.parent.parent
    too_much = home == Path("/") or home == Path.home() or home in Path.home().parents
    return program if program.parent.name != "bin" or too_much else home
