"""Which system calls a program may not make: seccomp filters as bytes, for bubblewrap and for the launcher.

A list of what is forbidden, not of what is allowed: compilers and interpreters need too many calls to name them. A
forbidden call fails with EPERM, so that a program can say what it missed.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
"""On x86-64, calls from this number on are the same calls once more, under other numbers."""

_CLONE_THREAD = 0x00010000
_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_AF_UNIX = 1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


@dataclass(frozen=True)
class Forbidden:
    """A system call that fails, always or only when an argument's lower 32 bits say so."""

    call: str
    error: int = errno.EPERM
    argument: int | None = None
    when: Literal["equal", "other", "any_bit", "no_bit"] = "equal"
    value: int = 0


_ALWAYS = (
    "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp "  # other processes
    "keyctl add_key request_key bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register "
    "mount umount2 pivot_root chroot unshare setns open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr "
    "memfd_create memfd_secret shmget shmat shmctl semget semop semctl msgget msgsnd msgrcv mq_open "  # outlive a program
    "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl "
    "name_to_handle_at open_by_handle_at settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname "
    "syslog vhangup personality lookup_dcookie mbind set_mempolicy migrate_pages move_pages fanotify_init"
)

BASE: tuple[Forbidden, ...] = (
    *(Forbidden(call) for call in _ALWAYS.split()),
    Forbidden("clone3", errno.ENOSYS),  # its flags lie in memory, where a filter cannot look; libc then takes clone
    Forbidden("clone", argument=0, when="any_bit", value=_NAMESPACES),
    Forbidden("socket", argument=0, when="other", value=_AF_UNIX),  # AF_VSOCK reaches the hypervisor
    Forbidden("socketpair", argument=0, when="other", value=_AF_UNIX),
    Forbidden("ioctl", argument=1, value=_TIOCSTI),
    Forbidden("ioctl", argument=1, value=_TIOCLINUX),
    # No changing of another process's limits and priorities: 0 is the caller itself.
    Forbidden("prlimit64", argument=0, when="other", value=0),
    Forbidden("setpriority", argument=1, when="other", value=0),
    Forbidden("ioprio_set", argument=1, when="other", value=0),
    Forbidden("sched_setaffinity", argument=0, when="other", value=0),
    Forbidden("sched_setscheduler", argument=0, when="other", value=0),
    Forbidden("sched_setparam", argument=0, when="other", value=0),
    Forbidden("sched_setattr", argument=0, when="other", value=0),
)
"""For every program."""

NO_PROCESSES: tuple[Forbidden, ...] = (
    Forbidden("fork"),
    Forbidden("vfork"),
    Forbidden("clone", argument=0, when="no_bit", value=_CLONE_THREAD),
)
"""For completions: threads, but no process. RLIMIT_NPROC does not bind root, and nothing orphaned can be left."""

_REACHING_OUT = (
    "kill tkill pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo socket chmod fchmodat fchmodat2 chown lchown fchownat "
    "setxattr lsetxattr removexattr lremovexattr utime utimes utimensat futimesat"
)
NO_REACH: tuple[Forbidden, ...] = tuple(Forbidden(call) for call in _REACHING_OUT.split())
"""Where the program shares the machine's processes and files with us: what Landlock does not bar."""


class NoTable(Exception):
    """The system call numbers of this kind of machine are not known here."""


def assembled(rules: Iterable[Forbidden], machine: str | None = None) -> bytes:
    """The filter as an array of `struct sock_filter`. A call that the machine does not have is left out.

    Raises:
        NoTable: a machine that is neither x86-64 nor 64-bit ARM.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT:
        raise NoTable(f"no table of system calls for {machine}")
    numbers = _TABLES[machine]
    program = [
        _insn(_LOAD, _ARCHITECTURE),
        _insn(_JUMP_EQUAL, _AUDIT[machine], yes=1),
        _insn(_RETURN, _KILL_PROCESS),
        _insn(_LOAD, _NUMBER),
        _insn(_JUMP_AT_LEAST, _X32, no=1),
        _insn(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for rule in rules:
        if rule.call in numbers:
            program += _block(rule, numbers[rule.call])
    return b"".join([*program, _insn(_RETURN, _ALLOW)])


def _block(rule: Forbidden, number: int) -> list[bytes]:
    refuse = _insn(_RETURN, _ERRNO | rule.error)
    if rule.argument is None:
        return [_insn(_JUMP_EQUAL, number, no=1), refuse]
    code = _JUMP_EQUAL if rule.when in ("equal", "other") else _JUMP_SET
    refuse_on_yes = rule.when in ("equal", "any_bit")
    return [
        _insn(_JUMP_EQUAL, number, no=4),
        _insn(_LOAD, _ARGUMENTS + 8 * rule.argument),  # both kinds of machine are little-endian
        _insn(code, rule.value, no=1) if refuse_on_yes else _insn(code, rule.value, yes=1),
        refuse,
        _insn(_LOAD, _NUMBER),
    ]


def _insn(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def _table(text: str) -> dict[str, int]:
    return {name: int(number) for name, _, number in (pair.partition("=") for pair in text.split())}


_BOTH = _table(
    "pidfd_send_signal=424 io_uring_setup=425 io_uring_enter=426 io_uring_register=427 open_tree=428 move_mount=429 "
    "fsopen=430 fsconfig=431 fsmount=432 fspick=433 clone3=435 pidfd_getfd=438 process_madvise=440 mount_setattr=442 "
    "memfd_secret=447 fchmodat2=452"
)
_TABLES = {
    "x86_64": _BOTH
    | _table(
        "ioctl=16 chmod=90 chown=92 lchown=94 utime=132 setxattr=188 lsetxattr=189 removexattr=197 lremovexattr=198 "
        "utimes=235 fchownat=260 futimesat=261 fchmodat=268 utimensat=280 shmget=29 shmat=30 shmctl=31 socket=41 "
        "socketpair=53 clone=56 fork=57 vfork=58 kill=62 semget=64 "
        "semop=65 semctl=66 msgget=68 msgsnd=69 msgrcv=70 ptrace=101 syslog=103 rt_sigqueueinfo=129 personality=135 "
        "setpriority=141 sched_setparam=142 sched_setscheduler=144 vhangup=153 pivot_root=155 adjtimex=159 chroot=161 "
        "acct=163 settimeofday=164 mount=165 umount2=166 swapon=167 swapoff=168 reboot=169 sethostname=170 "
        "setdomainname=171 init_module=175 delete_module=176 quotactl=179 tkill=200 sched_setaffinity=203 "
        "lookup_dcookie=212 clock_settime=227 mbind=237 set_mempolicy=238 mq_open=240 kexec_load=246 add_key=248 "
        "request_key=249 keyctl=250 ioprio_set=251 migrate_pages=256 unshare=272 move_pages=279 rt_tgsigqueueinfo=297 "
        "perf_event_open=298 fanotify_init=300 prlimit64=302 name_to_handle_at=303 open_by_handle_at=304 "
        "clock_adjtime=305 setns=308 process_vm_readv=310 process_vm_writev=311 kcmp=312 finit_module=313 "
        "sched_setattr=314 memfd_create=319 kexec_file_load=320 bpf=321 userfaultfd=323"
    ),
    "aarch64": _BOTH
    | _table(
        "setxattr=5 lsetxattr=6 removexattr=14 lremovexattr=15 fchmodat=53 fchownat=54 utimensat=88 "
        "lookup_dcookie=18 ioctl=29 ioprio_set=30 umount2=39 mount=40 pivot_root=41 chroot=51 vhangup=58 quotactl=60 "
        "acct=89 personality=92 unshare=97 kexec_load=104 init_module=105 delete_module=106 clock_settime=112 "
        "syslog=116 ptrace=117 sched_setparam=118 sched_setscheduler=119 sched_setaffinity=122 kill=129 tkill=130 "
        "rt_sigqueueinfo=138 setpriority=140 reboot=142 sethostname=161 setdomainname=162 settimeofday=170 "
        "adjtimex=171 "
        "mq_open=180 msgget=186 msgrcv=188 msgsnd=189 semget=190 semctl=191 semop=193 shmget=194 shmctl=195 shmat=196 "
        "socket=198 socketpair=199 add_key=217 request_key=218 keyctl=219 clone=220 swapon=224 swapoff=225 mbind=235 "
        "set_mempolicy=237 migrate_pages=238 move_pages=239 rt_tgsigqueueinfo=240 perf_event_open=241 prlimit64=261 "
        "fanotify_init=262 name_to_handle_at=264 open_by_handle_at=265 clock_adjtime=266 setns=268 "
        "process_vm_readv=270 process_vm_writev=271 kcmp=272 finit_module=273 sched_setattr=274 memfd_create=279 "
        "bpf=280 userfaultfd=282 kexec_file_load=294"
    ),
}
