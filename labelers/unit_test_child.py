"""Runs inside the sandbox, beside the completion: evaluates expressions and writes their values. It knows no right answer.

Its own few imports, so that it starts as fast as Python does. Input (stdin): marshal of the sources and the expressions,
written by the labeler. Output: one JSON line for each expression, which the labeler trusts no more than the completion.
"""

import marshal
import sys
from _json import encode_basestring_ascii as quoted
from posix import O_RDWR, _exit, dup, dup2, open, read, write

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would take longer than all the rest
    from typing import Any

MAX_DEPTH = 60


def text_of(value: "Any", depth: int = 0) -> str:
    """A value of exactly the builtin types as tagged JSON; anything else as the name of its type, which equals nothing."""
    kind = type(value)
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if kind is int:
        return f'["int","{value:x}"]'
    if kind is float:
        return f'["float","{value!r}"]'
    if kind is str:
        return quoted(value)
    if kind is bytes:
        return f'["bytes","{value.hex()}"]'
    if kind is complex:
        return f'["complex","{value.real!r}","{value.imag!r}"]'
    if depth < MAX_DEPTH:
        if kind in (list, tuple, set, frozenset):
            return f'["{kind.__name__}",[{",".join([text_of(each, depth + 1) for each in value])}]]'
        if kind is dict or (kind.__module__ == "collections" and issubclass(kind, dict)):
            pairs = [f"[{text_of(k, depth + 1)},{text_of(v, depth + 1)}]" for k, v in dict.items(value)]
            return f'["dict",[{",".join(pairs)}]]'
    return f'["other",{quoted(str(kind.__name__)[:80])}]'


def main() -> None:
    """Reads the order, makes the completion a module, evaluates, and leaves without any farewell code being run."""
    pieces = []
    while piece := read(0, 1 << 20):
        pieces.append(piece)
    order = marshal.loads(b"".join(pieces))
    out, null = dup(1), open("/dev/null", O_RDWR)
    for fd in (0, 1, 2):
        dup2(null, fd)

    def say(line: str) -> None:
        data = line.encode() + b"\n"
        while data:
            data = data[write(out, data) :]

    module = type(sys)("completion")
    sys.modules["completion"] = module
    names = module.__dict__
    vars(__builtins__).update(exit=sys.exit, quit=sys.exit)
    for source, must_run in order["sources"]:
        try:
            exec(compile(source, "<completion>", "exec", dont_inherit=True), names)
        except BaseException as error:
            if must_run:
                say(f'["broken",{quoted(f"{type(error).__name__}: {error}"[:200])}]')
                _exit(0)
    for expression in order["expressions"]:
        try:
            line = f'["value",{text_of(eval(compile(expression, "<test>", "eval", dont_inherit=True), names))}]'
        except BaseException as error:
            line = f'["error",{quoted(f"{type(error).__name__}: {error}"[:200])}]'
        say(line)
    _exit(0)


if __name__ == "__main__":
    main()
