"""`python -m labelers`: look at labelers and try them, without a run. stdout is data, stderr is talk.

Exit codes: 0 done; 1 the labeler breaks its contract; 2 a wrong command, option, labeler or input line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelers.errors import LabelerError, OptionError, WrongShape
from labelers.protocol import Program, Ran

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
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
        print(f"error: {error}", file=sys.stderr)
        return USAGE
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
    new = commands.add_parser("new", help="write a small labeler to start from")
    new.add_argument("name", metavar="NAME", help="its name; the file is NAME.py in the current folder")
    new.set_defaults(run=_new)
    for name, run, text in (
        ("check", _check, "prove that a labeler keeps the contract"),
        ("score", _score, 'label {"prompt", "completion", "target"?, "metadata"?} lines from stdin'),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("use", metavar="SPEC", help=_SPEC)
        command.add_argument("--options", default="{}", metavar="JSON", help="the labeler's options, a JSON object")
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
    file = Path(f"{parsed.name}.py")
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(_NEW.format(name=parsed.name, class_name=class_name))
    except FileExistsError as error:
        raise LabelerError(f"{file} is already there", hint="choose another name") from error
    print(f"./{file}:{class_name}")
    print(f"hint: python -m labelers check ./{file}:{class_name}", file=sys.stderr)
    return DONE


def _check(parsed: argparse.Namespace) -> int:
    from labelers.discovery import LabelerSpec
    from labelers.testing import check, speed

    spec = LabelerSpec(parsed.use, _options(parsed.options))
    labeler = spec.build()
    findings = check(labeler, spec=spec)
    for finding in findings:
        print(finding)
    if findings:
        print(f"{labeler.name}: {len(findings)} findings", file=sys.stderr)
        return FAILED
    print(f"{labeler.name}: keeps the contract; {speed(labeler):,.0f} per second on its examples", file=sys.stderr)
    if labeler.needs.engine:
        print(
            "hint: its examples were not ranked, as there is no model here; see labelers.testing.check", file=sys.stderr
        )
    return DONE


def _score(parsed: argparse.Namespace) -> int:
    from labelers.discovery import build
    from labelers.rows import label_lines

    labeler: Any = build(parsed.use, _options(parsed.options))
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
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for line in label_lines(sys.stdin.buffer, labeler, _NoModel(Path(scratch))):
                print(line)
        except WrongShape as error:
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        finally:
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
    return DONE


@dataclass(frozen=True)
class _NoModel:
    """The context of `score`: a scratch folder and nothing else."""

    scratch: Path

    def generate(self, chats: Sequence[Any], schema: str = "") -> Sequence[str | None]:
        raise LabelerError("there is no model here", hint="use the labeler in a run, with needs = Needs(engine=True)")

    def rewards(self, chats: Sequence[Any]) -> Sequence[float | None]:
        raise LabelerError("there is no model here", hint="use the labeler in a run, with needs = Needs(engine=True)")

    def run_program(self, program: Program) -> Ran:
        raise LabelerError("no launcher is lent here yet")


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
