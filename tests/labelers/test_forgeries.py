"""Forged passes: programs that do not solve the task and try to look as if they did. None may pass, none may leave a trace."""

# ruff: noqa: E501  one forgery is one line

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from labelers.discovery import build
from labelers.programs import Launcher
from labelers.protocol import Ran
from labelers.types import Abstain, Candidate, Completion, Prompt, Score
from tests.labelers.running import RUNS, judge, left_lying, left_running, opened

CHECK = "def check(candidate):\n    assert candidate(3) == 9\n    assert candidate(12) == 144\n    assert candidate(-7) == 49\n"
TARGETS: dict[str, Any] = {
    "HumanEval": {"prompt": "def f(x):\n    '''The square.'''\n", "test": CHECK, "entry_point": "f"},
    "MBPP": ["assert f(3) == 9", "assert f(12) == 144", "assert abs(f(-7) - 49) < 1e-9"],
    "APPS by call": {"inputs": [[3], [12], [-7]], "outputs": [9, 144, 49], "fn_name": "f"},
    "plain": {"tests": [{"call": "f(3)", "expected": 9}, {"call": "f(12)", "expected": 144}]},
}
STDIN = {"inputs": ["3\n", "12\n", "-7\n"], "outputs": ["9\n", "144\n", "49\n"]}

_FAKE_LINES = r"b'[\"value\",[\"int\",\"9\"]]\n' * 3"

FORGERIES = {
    "__eq__ always true": "class T:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return T()",
    "int with its own __eq__": "class I(int):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\ndef f(x): return I(1)",
    "str with its own __eq__": "class S(str):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\ndef f(x): return S('')",
    "float with its own arithmetic": "class F(float):\n    def __sub__(self, o): return 0.0\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\ndef f(x): return F(1)",
    "a class that claims to be int": "class I:\n    __class__ = int\n    def __eq__(self, o): return True\n    def __abs__(self): return 0\n    def __sub__(self, o): return self\n    def __lt__(self, o): return True\ndef f(x): return I()",
    "a metaclass that lies": "class M(type):\n    def __eq__(c, o): return True\n    def __hash__(c): return hash(int)\n    def __instancecheck__(c, o): return True\nclass I(metaclass=M):\n    def __eq__(s, o): return True\ndef f(x): return I()",
    "pickling tricks": "class P:\n    def __reduce__(self): return (eval, ('9',))\n    def __repr__(self): return '9'\n    __str__ = __repr__\ndef f(x): return P()",
    "os._exit(0) at import": "import os\nos._exit(0)",
    "os._exit(0) in the call": "import os\ndef f(x): os._exit(0)",
    "SystemExit(0) at import": "raise SystemExit(0)",
    "SystemExit(0) in the call": "def f(x): raise SystemExit(0)",
    "exit() in the call": "def f(x): exit(0)",
    "KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "printed verdicts": "print('OK\\n3 passed\\n{\"passed\": true}')\nimport sys\nsys.stderr.write('PASSED')\ndef f(x):\n    print('True'); return None",
    "lines on inherited descriptors": f"import os\nfor fd in range(1, 64):\n    try: os.write(fd, {_FAKE_LINES})\n    except OSError: continue\nos._exit(0)",
    "lines in the call, then exit": f"import os\ndef f(x):\n    for fd in range(1, 64):\n        try: os.write(fd, {_FAKE_LINES})\n        except OSError: continue\n    os._exit(0)",
    "frame walk to the order": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for name, value in list(frame.f_locals.items()):\n            if name in ('expected', 'wanted', 'order'): return value\n        frame = frame.f_back",
    "frame walk that edits the harness": "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_globals['text_of'] = lambda *a: 'true'\n    frame = frame.f_back\ndef f(x): return 1",
    "patched harness through __main__": "import __main__\n__main__.text_of = lambda *a: '[\"int\",\"9\"]'\n__main__.main = lambda: None\ndef f(x): return 1",
    "patched eval and compile": "import builtins\nbuiltins.eval = lambda *a, **k: 9\nbuiltins.compile = lambda *a, **k: '9'\ndef f(x): return 1",
    "patched type": "import builtins\nreal = builtins.type\nclass T(real):\n    pass\nbuiltins.type = lambda *a: int\ndef f(x): return 1",
    "patched json": "import json\njson.dumps = lambda *a, **k: 'true'\njson.loads = lambda *a, **k: True\nimport _json\n_json.encode_basestring_ascii = lambda s: 'true'\ndef f(x): return 'x'",
    "patched assertion machinery": "import builtins\nbuiltins.AssertionError = type('A', (), {})\nbuiltins.abs = lambda v: 0\nbuiltins.len = lambda v: 3\ndef f(x): return None",
    "replaced sys.stdout": "import sys, io\nsys.stdout = sys.__stdout__ = io.StringIO('9 144 49')\ndef f(x): print(9)",
    "sys.settrace": "import sys\ndef trace(frame, event, arg):\n    if 'expected' in frame.f_locals: frame.f_locals['expected'] = 1\n    return trace\nsys.settrace(trace)\ndef f(x): return 1",
    "sys.setprofile": "import sys\nsys.setprofile(lambda frame, event, arg: frame.f_locals.update(line='[\"value\",true]'))\ndef f(x): return 1",
    "atexit": f"import atexit, os\natexit.register(lambda: [os.write(fd, {_FAKE_LINES}) for fd in (1, 2, 3)])\ndef f(x): return 1",
    "a thread that writes on": f"import os, threading\ndef go():\n    while True:\n        for fd in range(1, 9):\n            try: os.write(fd, {_FAKE_LINES})\n            except OSError: continue\nthreading.Thread(target=go, daemon=True).start()\ndef f(x): return 1",
    "gc to find what is expected": "import gc\ndef f(x):\n    for each in gc.get_objects():\n        if isinstance(each, dict) and 'expected' in each: return each['expected']\n    return [o for o in gc.get_objects() if isinstance(o, tuple) and x in o][:1]",
    "ctypes that overwrites small ints": "import ctypes\ndef f(x):\n    ctypes.memmove(id(1) + 24, id(9) + 24, 4)\n    return 1 if x == 3 else 1",
    "ctypes that kills the harness": "import ctypes\nctypes.string_at(0)\ndef f(x): return 9",
    "orphan that answers later": f"import os, time\ntry:\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(0.2)\n            for fd in range(1, 16):\n                try: os.write(fd, {_FAKE_LINES})\n                except OSError: continue\n            time.sleep(60)\n        os._exit(0)\nexcept OSError: pass\ndef f(x): return 1",
    "a shell that stays": "import subprocess\ntry: subprocess.Popen(['/bin/sh', '-c', 'sleep 60'], start_new_session=True)\nexcept OSError: pass\ndef f(x): return 1",
    "reads the harness's files": "import glob\nfound = ''\nfor name in glob.glob('*') + glob.glob('../*') + glob.glob('/proc/self/fd/*') + ['/proc/self/cmdline', '/proc/1/environ', '/launcher.py']:\n    try: found += open(name).read()\n    except (OSError, UnicodeDecodeError): pass\ndef f(x):\n    import re\n    numbers = re.findall(r'== *(-?\\d+)', found)\n    return int(numbers[0]) if numbers else None",
    "reads its standard input again": "import os, sys\ndef f(x):\n    try: os.lseek(0, 0, 0); return eval(os.read(0, 10000))\n    except Exception: return sys.stdin.read()",
    "reads the parent's memory": "import os\ndef f(x):\n    try: return open(f'/proc/{os.getppid()}/mem', 'rb').read(10)\n    except OSError: return None",
    "signal handler on the way out": f"import os, signal\ndef late(*a): [os.write(fd, {_FAKE_LINES}) for fd in (1, 3)]; os._exit(0)\nfor n in (signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU): signal.signal(n, late)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ndef f(x):\n    while True: pass",
    "import hook": "import sys\nclass H:\n    def find_spec(self, name, path=None, target=None): return None\nsys.meta_path.insert(0, H())\nsys.modules['marshal'] = sys.modules['posix'] = None\ndef f(x): return 1",
    "files for the next program": "for name in ('../kept.py', '/scratch/sitecustomize.py', 'usercustomize.py', '/tmp/x', '/dev/shm/x', 'marshal.py', 'tests.py'):\n    try: open(name, 'w').write('import os; os._exit(0)')\n    except OSError: pass\ndef f(x): return 1",
    "a packet with the question": "import socket\ndef f(x):\n    try: socket.create_connection(('127.0.0.1', PORT), 0.3).send(b'what is f(%d)?' % x)\n    except OSError: pass\n    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'?', ('127.0.0.1', PORT))\n    except OSError: pass",
    "garbage instead of values": "import os\nos.write(3, b'\\xff\\x00' * 1000 + b'\\n')\nfor fd in range(1, 16):\n    try: os.write(fd, b'[[[[[[' * 1000 + b'\\n')\n    except OSError: continue\ndef f(x): return 9",
    "a generator of everything": "def f(x):\n    yield from range(200)",
    "every number at once": "class All(list):\n    def __contains__(self, x): return True\n    def __eq__(self, x): return True\ndef f(x): return All(range(200))",
    "NaN": "def f(x): return float('nan')",
    "a bool for a number": "def f(x): return True",
    "the number as text": "def f(x): return str(x * x)",
    "the input": "def f(x): return x",
    "one right answer for all": "def f(x): return 9",
    "runs for ever": "def f(x):\n    while True: pass",
    "stops itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
    "ends the sandbox": "import os, signal\nfor pid in (1, -1, os.getppid()):\n    try: os.kill(pid, signal.SIGKILL)\n    except OSError: continue\ndef f(x): return 9",
}  # fmt: skip

STDIN_FORGERIES = {
    "exit 0": "raise SystemExit(0)",
    "os._exit(0)": "import os\nos._exit(0)",
    "printed verdicts": "print('OK')\nprint('Accepted')\nprint('3 passed')",
    "one right answer for all": "print(9)",
    "all answers at once": "print('9\\n144\\n49')",
    "right, then crashes": "print(int(input()) ** 2)\nraise ValueError",
    "reads files": "import glob\nprint(*[open(n).read() for n in glob.glob('../*') if n != '../program'])",
    "writes on stderr": "import sys\nsys.stderr.write(str(int(input()) ** 2))",
    "endless": "while True: print(9)",
    "the first run keeps the answers": "try: print(open('/scratch/answers').read())\nexcept OSError: open('/scratch/answers', 'w').write('9')",
}

HONEST = "def f(x):\n    return x * x"
HONEST_STDIN = "print(int(input()) ** 2)"


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with opened(RUNS) as found:
        yield found


@pytest.fixture(scope="module")
def port() -> Iterator[tuple[int, Any]]:
    """A port on 127.0.0.1, and whether a packet has come to it."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", tcp.getsockname()[1]))
        tcp.setblocking(False)
        udp.setblocking(False)

        def heard() -> bool:
            for ask in (tcp.accept, lambda: udp.recv(9)):
                try:
                    ask()
                except BlockingIOError:
                    continue
                return True
            return False

        yield tcp.getsockname()[1], heard


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("style", ["HumanEval", "MBPP"])
def test_a_forged_pass_fails_and_leaves_nothing(launcher: Launcher, port: Any, style: str, forgery: str) -> None:
    number, heard = port
    answer = judge(launcher, "tests", FORGERIES[forgery].replace("PORT", str(number)), TARGETS[style], timeout_s=0.6)
    assert isinstance(answer, Score), answer
    assert answer.value < 1, answer
    assert left_running(launcher) == []
    assert left_lying(launcher) == []
    assert not heard()


@pytest.mark.parametrize("forgery", STDIN_FORGERIES)
def test_a_forged_output_fails_and_leaves_nothing(launcher: Launcher, forgery: str) -> None:
    answer = judge(launcher, "tests", STDIN_FORGERIES[forgery], STDIN, timeout_s=0.6)
    assert isinstance(answer, Score), answer
    assert answer.value < 1, answer
    assert left_running(launcher) == []
    assert left_lying(launcher) == []


@pytest.mark.parametrize("style", TARGETS)
def test_an_honest_solution_passes_and_a_wrong_one_fails(launcher: Launcher, style: str) -> None:
    codes = (HONEST, f"{HONEST} + 1")
    right, wrong = (judge(launcher, "tests", code, TARGETS[style], timeout_s=60) for code in codes)
    assert isinstance(right, Score)
    assert isinstance(wrong, Score)
    assert (right.value, wrong.value) == (1, 0)


def test_an_honest_program_by_standard_input_passes(launcher: Launcher) -> None:
    answer = judge(launcher, "tests", HONEST_STDIN, STDIN, timeout_s=60)
    assert isinstance(answer, Score)
    assert answer.value == 1


def test_what_is_expected_never_enters_the_sandbox(launcher: Launcher) -> None:
    """Every byte that goes in, looked at."""
    seen: list[bytes] = []

    class Watching:
        def run_program(self, program: Any) -> Any:
            seen.append(b"".join([program.stdin, *program.files.values(), *map(str.encode, program.argv)]))
            return launcher.run(program)

    tests = [
        "assert f(3) == 918273",
        "assert f(4) in (918273, 1)",
        "assert abs(f(5) - 918273) < 1",
        "assert f(6) is not None",
    ]
    prompt = Prompt.of("?", target=tests)
    labeler: Any = build("tests")
    labeler.score([Candidate(prompt, Completion.of(prompt, HONEST))], Watching())
    assert len(seen) == 1
    assert b"f(3)" in seen[0]
    assert b"918273" not in seen[0]


def test_a_sandbox_that_does_not_answer_is_an_abstention(launcher: Launcher) -> None:
    class Silent:
        def run_program(self, program: Any) -> Ran:
            return Ran("timeout")

    prompt = Prompt.of("?", target=TARGETS["MBPP"])
    labeler: Any = build("tests")
    (answer,) = labeler.score([Candidate(prompt, Completion.of(prompt, HONEST))], Silent())
    assert isinstance(answer, Abstain)
    assert answer.kind == "timeout"
