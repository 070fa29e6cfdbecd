"""What running a program on untrusted text costs, beside starting the same program without any isolation.

    .venv/bin/python benchmarks/programs.py [REPEATS]

Prints medians: `tests` beside Python's own start, each compiler beside the bare compiler, each from one resident sandbox.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's labelers.py is not the package

from labelers.compile_examples import BETTER_AND_WORSE  # noqa: E402
from labelers.discovery import build  # noqa: E402
from labelers.languages import LANGUAGES  # noqa: E402
from labelers.program_view import located  # noqa: E402
from labelers.programs import Launcher, opened_launcher  # noqa: E402
from labelers.protocol import Program, Ran  # noqa: E402
from labelers.types import Candidate, Completion, Prompt, Score  # noqa: E402


@dataclass
class Tools:
    """A context with a launcher."""

    launcher: Launcher

    def run_program(self, program: Program) -> Ran:
        return self.launcher.run(program)


def median_ms(act: Callable[[], Any], repeats: int) -> float:
    """The median of so many runs, after two that are not counted."""
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:]) * 1000


def asking(use: str, options: dict[str, Any], prompt: Prompt, text: str, launcher: Launcher) -> Callable[[], None]:
    """One question to a labeler, which must pass."""
    labeler: Any = build(use, options)

    def ask() -> None:
        (answer,) = labeler.score([Candidate(prompt, Completion.of(prompt, text))], Tools(launcher))
        assert isinstance(answer, Score), answer
        assert answer.value == 1, answer

    return ask


def started_bare(command: list[str]) -> Callable[[], Any]:
    """The same program by subprocess, with nothing around it."""
    return lambda: subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)


def main() -> None:
    """Measures and prints."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, medians of {repeats}")
    prompt = Prompt.of("Square it.", target=[f"assert f({i}) == {i * i}" for i in range(5)])
    labeler: Any = build("tests")
    with opened_launcher(labeler.needs) as launcher:
        bare = median_ms(started_bare([str(located("python3")), "-s", "-S", "-P", "-c", "pass"]), repeats)
        ours = median_ms(asking("tests", {}, prompt, "def f(x): return x * x", launcher), repeats)
        print(f"tests        {ours:7.1f} ms an item; python by itself {bare:7.1f} ms; overhead {ours - bare:6.1f} ms")
    for name, language in LANGUAGES.items():
        if shutil.which(language.program) is None:
            print(f"{name:12} {language.program} is not installed")
            continue
        code = BETTER_AND_WORSE[name][0][1]
        file, words = language.command(code)
        labeler = build("compiles", {"language": name})
        n = max(5, repeats // 4)
        with tempfile.TemporaryDirectory() as folder, opened_launcher(labeler.needs) as launcher:
            Path(folder, file).write_text(code)
            os.chdir(folder)
            bare = median_ms(started_bare([str(located(language.program)), *language.quiet, *words]), n)
            ours = median_ms(asking("compiles", {"language": name}, Prompt.of("?"), code, launcher), n)
            os.chdir("/")
        print(
            f"{name:12} {ours:7.1f} ms an item; {language.program} by itself {bare:7.1f} ms; ratio {ours / bare:5.2f}"
        )


if __name__ == "__main__":
    main()
