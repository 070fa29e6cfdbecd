"""`python -m labelers`: look at labelers and try them, without a run. stdout is data, stderr is talk.

Exit codes: 0 done; 1 the labeler breaks its contract; 2 a wrong command, option, labeler or input line; 3 this machine lacks a
layer of isolation that the labeler needs; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelers.errors import IsolationLacks, LabelerError, OptionError, WrongShape
from labelers.printable import printable
from labelers.protocol import Program, Ran

if TYPE_CHECKING:
    from labelers.discovery import LabelerSpec
    from labelers.sandbox import Limits, Worker

DONE, FAILED, USAGE, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 130
_SPEC = "a name, package.module:Class, or ./file.py:Class"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except LabelerError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return ENVIRONMENT if isinstance(error, IsolationLacks) else USAGE
    except BrokenPipeError:  # the reader of stdout has gone, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m labelers", description="Look at labelers and try them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="every labeler and what it prefers")
    listing.add_argument("--json", action="store_true", help="one JSON object, name to sentence")
    listing.set_defaults(run=_list)
    explain = commands.add_parser("explain", help="a labeler's page: what, why, options, known problems")
    explain.add_argument("use", metavar="NAME", help=_SPEC)
    explain.set_defaults(run=_explain)
    new = commands.add_parser("new", help="write a small labeler and its test to start from")
    new.add_argument(
        "name", metavar="NAME", help="its name; the files are NAME.py and test_NAME.py in the current folder"
    )
    new.set_defaults(run=_new)
    for name, run, text in (
        ("check", _check, "prove that a labeler keeps the contract"),
        ("score", _score, 'label {"prompt", "completion", "target"?, "metadata"?} lines from stdin'),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("use", metavar="SPEC", help=_SPEC)
        command.add_argument("--options", default="{}", metavar="JSON", help="the labeler's options, a JSON object")
        command.add_argument("--timeout", type=float, default=2.0, metavar="SECONDS", help="for one item (2)")
        for need, text in (
            ("sandbox", "let it run the completions, in bubblewrap"),
            ("network", "let it open connections"),
        ):
            command.add_argument(f"--{need}", dest="allow", action="append_const", const=need, default=[], help=text)
        command.add_argument(
            "--accept-weaker", action="append", default=[], metavar="LAYER",
            help="go on without this layer of isolation: rlimits, no_new_privs, seccomp, landlock",
        )  # fmt: skip
        command.set_defaults(run=run)
    return parser


def _list(parsed: argparse.Namespace) -> int:
    from labelers.pages import summaries

    found = summaries()
    if parsed.json:
        print(json.dumps(found, indent=1))
        return DONE
    width = max(map(len, found), default=0)
    for name, line in found.items():
        print(f"{name:{width}}  {line}")
    return DONE


def _explain(parsed: argparse.Namespace) -> int:
    from labelers.pages import page

    print(page(parsed.use), end="")
    return DONE


def _new(parsed: argparse.Namespace) -> int:
    class_name = "".join(part.capitalize() for part in parsed.name.split("_"))
    if not parsed.name.isidentifier() or not class_name.isidentifier():
        raise LabelerError(f"{parsed.name!r} cannot name a file and a class", hint="small letters and _: my_labeler")
    files = {f"{parsed.name}.py": _NEW, f"test_{parsed.name}.py": _NEW_TEST}
    if there := [name for name in files if Path(name).exists()]:
        raise LabelerError(f"{there[0]} is already there", hint="choose another name")
    for file, text in files.items():
        with Path(file).open("x", encoding="utf-8") as out:
            out.write(text.format(name=parsed.name, class_name=class_name))
    spec = f"./{parsed.name}.py:{class_name}"
    print(spec)
    print(f"hint: python -m labelers check {spec}, and python -m pytest test_{parsed.name}.py", file=sys.stderr)
    return DONE


def _check(parsed: argparse.Namespace) -> int:
    from labelers.testing import check, speed, through

    spec, limits = _wanted(parsed)
    labeler = spec.build()
    with _opened(spec, limits) as worker:
        findings = check(labeler, spec=spec, worker=worker)
        for finding in findings:
            print(printable(str(finding)))
        if findings:
            print(f"{labeler.name}: {len(findings)} findings", file=sys.stderr)
            return FAILED
        fast = speed(through(worker, labeler))
    print(f"{labeler.name}: keeps the contract; {fast:,.0f} per second on its examples, confined", file=sys.stderr)
    if labeler.needs.engine:
        print(
            "hint: its examples were not ranked, as there is no model here; see labelers.testing.check", file=sys.stderr
        )
    return DONE


def _score(parsed: argparse.Namespace) -> int:
    from labelers.rows import label_lines

    spec, limits = _wanted(parsed)
    labeler = spec.build()
    if hasattr(labeler, "compare"):
        needs = " and asks a model" if labeler.needs.engine else ""
        raise LabelerError(
            f"{labeler.name} compares two completions{needs}; `score` grades one at a time, without a model",
            hint=f"use it in a run: python -m pipeline run --set labelers.0.use={parsed.use}",
        )
    if labeler.needs.engine:
        raise LabelerError(
            f"{labeler.name} asks a model, and there is none here",
            hint=f"use it in a run: python -m pipeline run --set labelers.0.use={parsed.use}",
        )
    with _opened(spec, limits) as worker:
        try:
            for line in label_lines(sys.stdin.buffer, worker.score):
                print(line)
        except WrongShape as error:
            sys.stdout.flush()
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return FAILED
        finally:
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
    return DONE


def _wanted(parsed: argparse.Namespace) -> tuple[LabelerSpec, Limits]:
    from labelers.discovery import LabelerSpec
    from labelers.sandbox import Limits

    granted, weaker = frozenset(parsed.allow), frozenset(parsed.accept_weaker)
    return LabelerSpec(parsed.use, _options(parsed.options)), Limits(
        parsed.timeout, allow=granted, accept_weaker=weaker
    )


@contextlib.contextmanager
def _opened(spec: LabelerSpec, limits: Limits) -> Iterator[Worker]:
    """The labeler in its confined process, with a scratch folder and what starts programs; what is lost goes to stderr."""
    from labelers.sandbox import lent, opened, require_allowed

    labeler = spec.build()
    require_allowed(labeler.name, labeler.needs, limits)
    with lent(_NoModel, labeler.name, labeler.needs) as tools, opened(spec, tools, limits) as worker:
        for layer, why in worker.lost.items():
            print(f"warning: without the isolation layer {layer}: {why}", file=sys.stderr)
        yield worker


@dataclass(frozen=True)
class _NoModel:
    """The context of `score` and `check`: a scratch folder, and programs where the labeler needs some."""

    scratch: Path
    run_program: Callable[[Program], Ran]

    def generate(self, chats: Sequence[Any], schema: str = "") -> Sequence[str | None]:
        return [None for _ in chats]

    def rewards(self, chats: Sequence[Any]) -> Sequence[float | None]:
        return [None for _ in chats]


def _options(text: str) -> dict[str, Any]:
    from labelers.strict_json import NotJson, Undecided, read_json

    hint = """write it like '{"limit": 10}'"""
    try:
        options = read_json(text)
    except (NotJson, Undecided) as error:
        raise OptionError(f"--options is not JSON: {error}", hint=hint) from error
    if not isinstance(options, dict):
        raise OptionError(f"--options is {type(options).__name__}, not an object", hint=hint)
    return options


_NEW = '''\
from dataclasses import dataclass

from labelers.types import Example, Needs, Prompt, Score


@dataclass(frozen=True)
class {class_name}:
    """Prefers completions of at most `limit` characters."""

    limit: int = 100
    """The most characters that pass."""

    name, version, needs = "{name}", "1", Needs()
    examples = [Example(Prompt.of("Say hi"), better="hi", worse="x" * 200)]
    pass_at = 1.0

    def score(self, batch, ctx):
        return [Score(float(len(c.completion.text) <= self.limit)) for c in batch]
'''


_NEW_TEST = """\
from pathlib import Path

from labelers.discovery import LabelerSpec
from labelers.testing import check
from labelers.types import Candidate, Completion, Prompt

USE = f"{{Path(__file__).with_name('{name}.py')}}:{class_name}"


def value(text, **options):
    prompt = Prompt.of("Say hi")
    (answer,) = LabelerSpec(USE, options).build().score([Candidate(prompt, Completion.of(prompt, text))], None)
    return answer.value


def test_it_keeps_the_contract():
    spec = LabelerSpec(USE)
    assert check(spec.build(), spec=spec) == []


def test_a_short_completion_passes_and_a_long_one_does_not():
    assert (value("hi", limit=10), value("x" * 11, limit=10)) == (1.0, 0.0)
"""
