"""The command line: its options are generated from the dataclasses in trainer/config.py. Loads torch only to do work."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trainer.config import COMMANDS
from trainer.errors import DONE, INTERRUPTED, TrainerError, UsageError


def add_option(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any) -> None:
    """One dataclass field becomes one `--option`."""
    flag = "--" + field.name.replace("_", "-")
    required = field.default is dataclasses.MISSING
    help = field.metadata["help"].replace("%", "%%") + ("" if required else f" [{field.default}]")
    settings: dict[str, Any] = {"help": help, "required": required, "dest": field.name}
    if not required:
        settings["default"] = field.default
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **settings)
    elif get_origin(kind) is Literal:
        parser.add_argument(flag, choices=get_args(kind), **settings)
    elif get_origin(kind) is tuple:
        names = get_args(get_args(kind)[0])  # of a Literal; none of a text
        more = {"choices": names} if names else {"metavar": "PATH" if "data" in field.name else "NAME"}
        parser.add_argument(flag, nargs="+", **more, **settings)
    else:
        parser.add_argument(flag, type=kind, metavar=kind.__name__.upper(), **settings)


def build_parser() -> argparse.ArgumentParser:
    """One subcommand per entry of COMMANDS, one option per field of its dataclass."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Turns preference pairs into a better model. Exit codes: 0 done, 1 failed and named, 2 usage or config, "
        "3 environment, 4 stopped by --stop-on, 130 interrupted.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (options, _) in COMMANDS.items():
        text = options.__doc__ or ""
        command = commands.add_parser(
            name, help=text.split("\n")[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        kinds = get_type_hints(options)
        for field in dataclasses.fields(options):
            add_option(command, field, kinds[field.name])
    return parser


def parse(argv: Sequence[str]) -> tuple[str, Any]:
    """The command's name and its options object.

    Raises:
        UsageError: an option's value is out of range.
    """
    arguments = vars(build_parser().parse_args(argv))
    name = arguments.pop("command")
    try:
        return name, COMMANDS[name][0](**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    except ValueError as error:
        raise UsageError(str(error)) from error


def load_command(name: str) -> Callable[[Any], dict[str, Any] | None]:
    """The function behind a command; only now are torch and transformers imported."""
    module, function = COMMANDS[name][1].split(":")
    run: Callable[[Any], dict[str, Any] | None] = getattr(importlib.import_module(module), function)
    return run


def main(argv: Sequence[str]) -> int:
    """Runs one command; its result, where it has one, is one JSON line on stdout; talk goes to stderr. Returns the exit code."""
    try:
        name, options = parse(argv)
        result = load_command(name)(options)
    except TrainerError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("trainer: interrupted; hint: the same command goes on from the newest checkpoint", file=sys.stderr)
        return INTERRUPTED
    if result is not None and os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one reports
        print(json.dumps(result), flush=True)
    return DONE
