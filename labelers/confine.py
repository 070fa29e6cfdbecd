"""What a process may no longer do: rlimits, no_new_privs, Landlock, seccomp and namespaces, by ctypes and without a package.

Neither root nor a user namespace is needed for the first four. Each layer is had or lost; which is said, never assumed.
Facts and costs: shared/isolation.md; why it is this way: docs/decisions/0003.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

REQUIRED = ("rlimits", "no_new_privs", "seccomp")
"""Layers without which no labeler is given a hostile text, unless the run's config accepts it."""
BACKUP = ("landlock", "namespaces")
"""Layers that stop again what the required ones stop already; lost ones are said."""
LAYERS = (*REQUIRED, *BACKUP)

REMEDY = {
    "rlimits": "run where setrlimit is allowed",
    "no_new_privs": "Linux 3.5 or newer",
    "seccomp": "Linux with CONFIG_SECCOMP_FILTER on x86_64 or aarch64; in a container, a seccomp profile that allows prctl",
    "landlock": "Linux 5.13 or newer with landlock among the kernel's `lsm=`; in a container, a seccomp profile that allows it",
    "namespaces": "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a container that allows unshare",
}
"""layer -> how to get it."""

Layers = Mapping[str, str]
"""layer -> why it is lost; empty text where it is had."""

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same number on every architecture
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI -> how many rights on files it knows; 16 from ABI 5 on

# What a Python process that only computes calls: memory, clocks, its own signals, the pipe that it has. No call takes a path,
# makes a descriptor, or names another process.
_X86_64 = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
    "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "readv": 19, "writev": 20,
    "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "setitimer": 38, "getpid": 39, "exit": 60,
    "gettimeofday": 96, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107,
    "getegid": 108,
    "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204, "restart_syscall": 219,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "getcpu": 309,
    "getrandom": 318, "rseq": 334,
}  # fmt: skip
_AARCH64 = {
    "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "ppoll": 73, "fstat": 80, "exit": 93,
    "exit_group": 94, "futex": 98, "nanosleep": 101, "setitimer": 103, "clock_gettime": 113, "clock_getres": 114,
    "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128,
    "sigaltstack": 132, "rt_sigaction": 134,
    "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "getrusage": 165, "gettimeofday": 169, "getcpu": 168,
    "getpid": 172, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179,
    "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278,
    "rseq": 293,
}  # fmt: skip
# For a labeler that keeps files in its scratch folder: Landlock says which files, so both layers are needed.
_X86_64_FILES = {
    "open": 2, "stat": 4, "lstat": 6, "pread64": 17, "pwrite64": 18, "access": 21, "fsync": 74, "fdatasync": 75,
    "ftruncate": 77, "getdents64": 217, "openat": 257, "mkdirat": 258, "newfstatat": 262, "unlinkat": 263,
    "renameat": 264, "faccessat": 269, "mkdir": 83, "rmdir": 84, "unlink": 87, "rename": 82, "fcntl": 72, "ioctl": 16,
    "getcwd": 79, "readlink": 89, "readlinkat": 267, "statx": 332, "flock": 73, "dup": 32,
}  # fmt: skip
_AARCH64_FILES = {
    "getcwd": 17, "dup": 23, "fcntl": 25, "ioctl": 29, "flock": 32, "mkdirat": 34, "unlinkat": 35, "renameat": 38,
    "ftruncate": 46, "faccessat": 48, "openat": 56, "getdents64": 61, "pread64": 67, "pwrite64": 68, "readlinkat": 78,
    "newfstatat": 79, "fsync": 82, "fdatasync": 83, "statx": 291,
}  # fmt: skip
_ARCHITECTURES = {
    "x86_64": (0xC000003E, _X86_64, _X86_64_FILES),
    "aarch64": (0xC00000B7, _AARCH64, _AARCH64_FILES),
}


@dataclass(frozen=True)
class Policy:
    """What a worker is left with.

    Args:
        memory_bytes: address space beyond what it has when it is confined.
        scratch: the one folder in which it may make files; None: it opens no file at all.
        network: it opens connections, so it keeps files and sockets too: rlimits and no_new_privs only.
    """

    memory_bytes: int = 1 << 30
    scratch: Path | None = None
    network: bool = False


def confine(policy: Policy) -> dict[str, str]:
    """Takes from this process, for good, what `policy` does not leave it. Which layers are had; `namespaces` is not tried.

    A layer that the policy does not want (see `network`) is left out.
    """
    layers = {"rlimits": _limit(policy), "no_new_privs": _prctl(_PR_SET_NO_NEW_PRIVS, 1)}
    if policy.network:
        return layers
    layers["landlock"] = restrict_files(policy.scratch)
    files = policy.scratch is not None and not layers["landlock"]
    layers["seccomp"] = filter_calls(files)
    return layers


def die_with_parent(parent: int | None) -> None:
    """Has the kernel end this process with its parent, whose id `parent` was; None: not any longer."""
    _prctl(_PR_SET_PDEATHSIG, 0 if parent is None else signal.SIGKILL)
    if parent is not None and os.getppid() != parent:  # it died before the call
        os._exit(1)


def leave_namespaces() -> str:
    """Moves this process into an empty network and its own message queues. Why not, or empty text.

    A user namespace is taken with them where that is what allows it; one thread only.
    """
    for flags in (_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC, _CLONE_NEWNET | _CLONE_NEWIPC):
        if _libc().unshare(flags) == 0:
            return ""
    return _why("unshare")


def restrict_files(scratch: Path | None = None) -> str:
    """Landlock: no file, no TCP port, no signal to others; only `scratch` stays. Why not, or empty text."""
    libc = _libc()
    abi = landlock_abi()
    if abi < 1:
        return _why("landlock_create_ruleset")
    rights = (1 << _FS_RIGHTS.get(abi, 16)) - 1
    attributes = struct.pack("QQQ", rights, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return _why("landlock_create_ruleset")
    try:
        if scratch is not None:
            folder = os.open(scratch, os.O_PATH | os.O_CLOEXEC)
            allowed = rights & ~(1 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15)  # no exec, device, socket, FIFO
            added = libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", allowed, folder), 0)
            os.close(folder)
            if added < 0:
                return _why("landlock_add_rule")
        return "" if libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0 else _why("landlock_restrict_self")
    finally:
        os.close(ruleset)


def landlock_abi() -> int:
    """The kernel's Landlock version; below 1 where there is none."""
    return int(_libc().syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def filter_calls(files: bool = False) -> str:
    """Seccomp: only the calls of a process that computes, everything else is EPERM. Why not, or empty text."""
    if platform.machine() not in _ARCHITECTURES:
        return f"no list of system calls for {platform.machine()}"
    architecture, calls, more = _ARCHITECTURES[platform.machine()]
    allowed = [*calls.values(), *(more.values() if files else ())]
    return _install(_program(architecture, allowed, _ALLOW, _ERRNO | errno.EPERM))


def _program(architecture: int, listed: list[int], match: int, otherwise: int) -> bytes:
    """A BPF program: `match` for the listed calls, `otherwise` for the rest, death for another architecture's calls."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    rows = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, _KILL_PROCESS), (load, 0, 0, 0)]
    rows += [(at_least, 0, 1, 0x40000000), (give, 0, 0, _KILL_PROCESS)]  # x32 calls under x86_64's name
    rows += [(equal, len(listed) - i, 0, number) for i, number in enumerate(listed)]
    rows += [(give, 0, 0, otherwise), (give, 0, 0, match)]
    return b"".join(struct.pack("HBBI", *row) for row in rows)


def _install_bars(numbers: list[int], filters: bool) -> str:
    """Seccomp the other way round: these calls are EPERM, and with `filters` so is the making of further filters."""
    architecture = _ARCHITECTURES[platform.machine()][0]
    prctl = 157 if platform.machine() == "x86_64" else 167
    load, equal, give = 0x20, 0x15, 0x06
    rows = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, _KILL_PROCESS)]
    for number in numbers:
        rows += [(load, 0, 0, 0), (equal, 0, 1, number), (give, 0, 0, _ERRNO | errno.EPERM)]
    if filters:
        rows += [(load, 0, 0, 0), (equal, 0, 3, prctl), (load, 0, 0, 16), (equal, 0, 1, _PR_SET_SECCOMP)]
        rows += [(give, 0, 0, _ERRNO | errno.EPERM)]
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return _install(b"".join(struct.pack("HBBI", *row) for row in [*rows, (give, 0, 0, _ALLOW)]))


def _install(program: bytes) -> str:
    class _Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("rows", ctypes.c_char_p)]

    whole = _Filter(len(program) // 8, program)
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(whole))


def _limit(policy: Policy) -> str:
    """Bounds memory, files and processes. Why not, or empty text."""
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + policy.memory_bytes
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_CORE: 0}
    if not policy.network:
        limits |= {
            resource.RLIMIT_FSIZE: 0 if policy.scratch is None else 64 << 20,
            resource.RLIMIT_NPROC: 0,  # does not bind root, whom seccomp binds
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            # The pipe is descriptor 3 and stays; no other can be opened. Landlock still needs one for its ruleset.
            resource.RLIMIT_NOFILE: 8 if policy.scratch is None else 32,
        }
    try:
        for limit, value in limits.items():
            _, hard = resource.getrlimit(limit)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))
    except (ValueError, OSError) as error:
        return f"setrlimit: {error}"
    return ""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *arguments: int) -> str:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return "" if _libc().prctl(option, *padded) == 0 else _why("prctl")


def _why(call: str) -> str:
    return f"{call}: {os.strerror(ctypes.get_errno())}"


def bar(layers: Iterable[str]) -> None:
    """Takes these layers (and `bubblewrap`) from this process and its children for good, to test what happens without them."""
    calls = {
        "landlock": (_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT),
        "namespaces": (272,) if platform.machine() == "x86_64" else (97,),
        "bubblewrap": (165, 155) if platform.machine() == "x86_64" else (40, 41),  # mount, pivot_root
    }
    barred = set(layers)
    why = _install_bars([number for layer in barred & set(calls) for number in calls[layer]], "seccomp" in barred)
    if why:
        raise OSError(why)


def probe() -> dict[str, str]:
    """Every layer, tried in a process of its own: why it cannot be had here, or empty text."""
    command = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path[:] = {sys.path!r}; from labelers.confine import main; main()",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    try:
        found = json.loads(done.stdout)
        return {layer: str(found[layer]) for layer in LAYERS}
    except (ValueError, KeyError):
        return dict.fromkeys(LAYERS, f"trying it ended with exit code {done.returncode}")


def main() -> None:
    """Tries every layer on this very process and prints which are lost, as a JSON object: see `probe`."""
    layers = {"namespaces": leave_namespaces(), **confine(Policy())}
    os.write(1, json.dumps(layers).encode())
    os._exit(0)
