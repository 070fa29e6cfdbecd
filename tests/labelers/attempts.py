"""Attempts to escape from, or to abuse, the place where a hostile text is handled: one list for every back end.

Each is a few lines of Python to be executed inside. It escaped when `proof` is true afterwards, when a file named in `leaves`
exists outside, or when a process named `ORPHAN` is left; an exception, a death or a timeout is no escape.
`OUTSIDE`, `PORT` and `ASKER` in a source are replaced by `source_for`: a folder that only the outside should be able to change,
the port on 127.0.0.1 of a TCP and a UDP listener (which must not hear anything), and the id of the process that asked.
"""

# ruff: noqa: E501  one attempt is one line

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

ORPHAN = "escaped-orphan"
"""What a process that outlives its place would be called (`/proc/*/comm`)."""


@dataclass(frozen=True)
class Attempt:
    """One way out.

    Args:
        source: Python that sets `proof` to something true where it got out.
        leaves: files in the outside folder that it would leave or change.
        where: `everywhere`; `parser`: a place where programs run may allow it inside itself (a folder, processes of its own);
            `bomb`: judged by what is left behind, not by `proof`.
    """

    name: str
    source: str
    leaves: tuple[str, ...] = ()
    where: str = "everywhere"


def source_for(attempt: Attempt, outside: Path, port: int = 9, asker: int = 0) -> str:
    """The attempt's source against this outside folder. It must hold a file `secret.txt` with the text `secret`."""
    source = attempt.source.replace("OUTSIDE", str(outside)).replace("PORT", str(port)).replace("ASKER", str(asker))
    return "proof = None\n" + source


_SYSCALL = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"

READING = [
    Attempt("read a file outside", "proof = open('OUTSIDE/secret.txt').read() == 'secret'"),
    Attempt("read a file outside by os.open", "import os\nproof = os.read(os.open('OUTSIDE/secret.txt', os.O_RDONLY), 9)"),
    Attempt("read the password file", "proof = open('/etc/passwd').read()", where="parser"),
    Attempt("read the shadow file", "proof = open('/etc/shadow').read()"),
    Attempt("list a folder outside", "import os\nproof = os.listdir('OUTSIDE')"),
    Attempt("see that a file is there", "import os\nproof = os.stat('OUTSIDE/secret.txt').st_size"),
    Attempt("read another process's memory", "import os\nproof = open(f'/proc/{os.getppid()}/maps').read()", where="parser"),
    Attempt("read another process's environment", "import os\nproof = open(f'/proc/{os.getppid()}/environ').read()", where="parser"),
    Attempt("import what was not loaded", "import xmlrpc.server\nproof = True", where="parser"),
]  # fmt: skip

WRITING = [
    Attempt("create a file outside", "open('OUTSIDE/made', 'w').close()", ("made",)),
    Attempt("create an empty file by os.open", "import os\nos.open('OUTSIDE/made2', os.O_CREAT | os.O_WRONLY)", ("made2",)),
    Attempt("create a file in the current folder", "open('made-here', 'w').close()\nproof = True", where="parser"),
    Attempt("create a file in /tmp", "open('/tmp/escaped-file', 'w').close()\nproof = True", where="parser"),
    Attempt("create a file in /dev/shm", "open('/dev/shm/escaped-file', 'w').close()\nproof = True", where="parser"),
    Attempt("change a file outside", "open('OUTSIDE/secret.txt', 'w').close()\nproof = True"),
    Attempt("delete a file outside", "import os\nos.unlink('OUTSIDE/secret.txt')\nproof = True"),
    Attempt("rename a file outside", "import os\nos.rename('OUTSIDE/secret.txt', 'OUTSIDE/taken')", ("taken",)),
    Attempt("link a file outside", "import os\nos.link('OUTSIDE/secret.txt', 'OUTSIDE/linked')", ("linked",)),
    Attempt("make a symbolic link outside", "import os\nos.symlink('/etc/passwd', 'OUTSIDE/symlink')", ("symlink",)),
    Attempt("make a folder outside", "import os\nos.mkdir('OUTSIDE/folder')", ("folder",)),
    Attempt("make a FIFO outside", "import os\nos.mkfifo('OUTSIDE/fifo')", ("fifo",)),
    Attempt("change a file's mode", "import os\nos.chmod('OUTSIDE/secret.txt', 0o777)\nproof = True"),
    Attempt("change a file's owner", "import os\nos.chown('OUTSIDE/secret.txt', 65534, 65534)\nproof = True"),
    Attempt("truncate a file outside", "import os\nos.truncate('OUTSIDE/secret.txt', 0)\nproof = True"),
    Attempt("fill the disk", "f = open('OUTSIDE/big', 'wb')\nfor _ in range(64): f.write(b'x' * (1 << 20))\nproof = True", ("big",)),
    Attempt("change the root", "import os\nos.chroot('OUTSIDE')\nproof = open('/secret.txt').read()"),
    Attempt("mount over a folder", _SYSCALL + "proof = libc.mount(b'none', b'OUTSIDE', b'tmpfs', 0, None) == 0", where="parser"),
]  # fmt: skip

NETWORK = [
    Attempt("connect by TCP", "import socket\ns = socket.create_connection(('127.0.0.1', PORT), 1)\nproof = True"),
    Attempt("send by UDP", "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'out', ('127.0.0.1', PORT))"),
    Attempt("talk to the hypervisor by VSOCK", "import socket\ns = socket.socket(40, socket.SOCK_STREAM)\ns.settimeout(1)\ns.connect((2, 1))\nproof = True"),
    Attempt("make a VSOCK at all", "import socket\nsocket.socket(40, socket.SOCK_STREAM)\nproof = True", where="parser"),
    Attempt("make a raw socket", "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nproof = True", where="parser"),
    Attempt("connect to an abstract Unix socket", "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0escaped-abstract')\nproof = True"),
    Attempt("look a host up", "import socket\nproof = socket.getaddrinfo('example.com', 80)"),
]  # fmt: skip

PROCESSES = [
    Attempt("fork", "import os\npid = os.fork()\nproof = True\nif pid == 0: os._exit(0)", where="parser"),
    Attempt("fork an orphan", f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    open('/proc/self/comm', 'w').write('{ORPHAN}')\n    time.sleep(30)\n    os._exit(0)"),
    Attempt("fork bomb", "import os\nfor _ in range(2000): os.fork()", where="bomb"),
    Attempt("start a thread", "import threading\nt = threading.Thread(target=int)\nt.start()\nproof = True", where="parser"),
    Attempt("exec a shell", "import os\nos.execv('/bin/sh', ['sh', '-c', 'touch OUTSIDE/shell'])", ("shell",)),
    Attempt("run a command", "import os\nos.system('touch OUTSIDE/system')", ("system",)),
    Attempt("posix_spawn", "import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'touch OUTSIDE/spawned'], {})", ("spawned",)),
    Attempt("kill the parent", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nproof = True", where="parser"),
    Attempt("stop the parent", "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nproof = True", where="parser"),
    Attempt("kill everything", "import os, signal\nos.kill(-1, signal.SIGKILL)\nproof = True", where="parser"),
    Attempt("kill the process that asked", "import os, signal\nos.kill(ASKER, signal.SIGKILL)\nproof = True"),
    Attempt("ptrace the parent", _SYSCALL + "import os\nproof = libc.ptrace(16, os.getppid(), 0, 0) == 0", where="parser"),
    Attempt("write another process's memory", "import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b')\nproof = True", where="parser"),
]  # fmt: skip

KERNEL = [
    Attempt("io_uring", _SYSCALL + "proof = libc.syscall(425, 8, ctypes.create_string_buffer(120)) >= 0"),
    Attempt("memfd", _SYSCALL + "proof = libc.memfd_create(b'x', 0) >= 0", where="parser"),
    Attempt("System V shared memory", _SYSCALL + "proof = libc.shmget(0x5EC2E7, 4096, 0o1666) >= 0", where="parser"),
    Attempt("System V message queue", _SYSCALL + "proof = libc.msgget(0x5EC2E7, 0o1666) >= 0", where="parser"),
    Attempt("keyctl", _SYSCALL + "proof = libc.syscall(250, 0, -3, 1) >= 0"),
    Attempt("add a key", _SYSCALL + "proof = libc.syscall(248, b'user', b'escaped', b'x', 1, -4) >= 0"),
    Attempt("bpf", _SYSCALL + "proof = libc.syscall(321, 0, ctypes.create_string_buffer(72), 72) >= 0"),
    Attempt("perf_event_open", _SYSCALL + "proof = libc.syscall(298, ctypes.create_string_buffer(b'\\1\\0\\0\\0\\x70', 112), 0, -1, -1, 0) >= 0"),
    Attempt("userfaultfd", _SYSCALL + "proof = libc.syscall(323, 0) >= 0"),
    Attempt("unshare into a new user namespace", _SYSCALL + "proof = libc.unshare(0x10000000) == 0", where="parser"),
    Attempt("raise an rlimit", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nproof = True", where="parser"),
    Attempt("become another user", "import os\nos.setuid(12345)\nproof = True", where="parser"),
    Attempt("set the clock", "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)\nproof = True"),
    Attempt("set the host's name", "import socket\nsocket.sethostname('escaped')\nproof = True", where="parser"),
    Attempt("push input into a terminal", "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSTI, b'x')\nproof = True"),
    Attempt("drop the filter", _SYSCALL + "proof = libc.prctl(22, 0, 0, 0, 0) == 0"),
]  # fmt: skip

ABUSE = [
    Attempt("3 GB of memory", "block = bytearray(3 << 30)\nproof = len(block)"),
    Attempt("memory bit by bit", "blocks = []\nwhile True: blocks.append(bytearray(1 << 24))"),
    Attempt("run for ever", "while True: pass"),
    Attempt("sleep for ever", "import time\ntime.sleep(3600)"),
    Attempt("catch everything and go on", "while True:\n    try:\n        while True: pass\n    except BaseException: continue"),
    Attempt("ignore signals and hang", "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): continue\nwhile True: pass"),
    Attempt("write without end", "import os\nwhile True: os.write(1, b'x' * 65536)"),
    Attempt("segfault", "import ctypes\nctypes.string_at(0)"),
    Attempt("abort", "import os\nos.abort()"),
    Attempt("exit 0", "raise SystemExit(0)"),
    Attempt("exit 0 at once", "import os\nos._exit(0)"),
    Attempt("recurse", "def f(): f()\nf()"),
    Attempt("close every descriptor", "import os\nos.closerange(0, 64)"),
]  # fmt: skip

ATTEMPTS = (*READING, *WRITING, *NETWORK, *PROCESSES, *KERNEL, *ABUSE)


class Listener:
    """A TCP and a UDP port on 127.0.0.1 that count what reaches them."""

    def __init__(self) -> None:
        self.tcp, self.udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
        self.port = self.tcp.getsockname()[1]
        self.udp.bind(("127.0.0.1", self.port))
        for each in (self.tcp, self.udp):
            each.setblocking(False)

    def heard(self) -> bool:
        """Whether anything came."""
        try:
            self.tcp.accept()[0].close()
        except BlockingIOError:
            reached = False
        else:
            reached = True
        try:
            return bool(self.udp.recv(100)) or reached
        except BlockingIOError:
            return reached
