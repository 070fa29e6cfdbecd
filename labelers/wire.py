"""What goes over the pipe between the pipeline and a confined worker.

To the worker: pickle of plain tuples, since the worker trusts the pipeline. From the worker: JSON of bounded size, checked
to the last field, since the worker may have become a hostile text's puppet.
"""

from __future__ import annotations

import base64
import json
import math
import pickle
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from labelers.call import REASON_CHARS, Crashed, Malformed, Outcome, cut
from labelers.protocol import Program, Ran
from labelers.types import (
    ABSTAIN_KINDS,
    PREFERENCES,
    Abstain,
    Candidate,
    Comparison,
    Completion,
    Message,
    Prompt,
    Score,
    Verdict,
)  # fmt: skip

T = TypeVar("T")
More = Callable[[], float]
HEADER = struct.Struct(">I")
CHARS_JSON = 12  # a character beyond U+FFFF is two escapes of six
ANSWER_BYTES = 128 + REASON_CHARS * CHARS_JSON
"""The most that one label may take on the pipe."""
_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


class Closed(Exception):
    """The other end is gone."""


class Misbehaved(Exception):
    """What the worker sent is not what a worker sends."""


class Channel:
    """Frames (length, body) over a socket, each with a deadline; `more` says how long to wait on when that has come."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def send(self, body: bytes, deadline: float, more: More = lambda: 0.0) -> None:
        """Raises: TimeoutError; Closed."""
        left = memoryview(HEADER.pack(len(body)) + body)
        while left:
            try:
                left = left[self._in_time(self.end.send, left, deadline, more) :]
            except (BrokenPipeError, ConnectionResetError) as error:
                raise Closed from error

    def receive(self, limit: int, deadline: float, more: More = lambda: 0.0) -> bytes:
        """The next frame. Raises: TimeoutError; Closed; Misbehaved when it is longer than `limit`."""
        (length,) = HEADER.unpack(self._exactly(HEADER.size, deadline, more))
        if length > limit:
            raise Misbehaved(f"it answered with {length} bytes")
        return self._exactly(length, deadline, more)

    def is_silent(self) -> bool:
        """Whether the other end is there and has said nothing."""
        self.end.settimeout(0)
        try:
            self.end.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        return False

    def _exactly(self, size: int, deadline: float, more: More) -> bytes:
        parts, missing = [], size
        while missing:
            try:
                part = self._in_time(self.end.recv, min(missing, 1 << 20), deadline, more)
            except ConnectionResetError as error:
                raise Closed from error
            if not part:
                raise Closed
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _in_time(self, act: Callable[[Any], T], what: Any, deadline: float, more: More) -> T:
        """Sends or receives, at once where that can be done: what lies ready is in time. Raises: TimeoutError; OSError."""
        left = deadline - time.monotonic()
        while True:
            self.end.settimeout(max(0.0, left))
            try:
                return act(what)
            except (TimeoutError, BlockingIOError):
                if not (left := more()):
                    raise TimeoutError from None


def pack_question(nonce: str, batch: Sequence[Candidate] | Sequence[Comparison]) -> bytes:
    """A batch for the worker; each prompt is sent once."""
    prompts: dict[int, int] = {}
    sent: list[Any] = []
    rows: list[Any] = []
    for item in batch:
        prompt = item.prompt
        number = prompts.get(id(prompt))
        if number is None:
            number = prompts[id(prompt)] = len(sent)
            messages = [(m.role, m.content) for m in prompt.messages]
            sent.append((prompt.id, messages, prompt.target, dict(prompt.metadata)))
        if isinstance(item, Candidate):
            rows.append((number, _fields(item.completion)))
        else:
            rows.append((number, _fields(item.a), _fields(item.b)))
    return pickle.dumps((nonce, sent, rows), pickle.HIGHEST_PROTOCOL)


def _fields(c: Completion) -> tuple[Any, ...]:
    return (c.id, c.prompt_id, c.text, c.finish_reason, c.source, c.n_tokens)


def read_question(body: bytes) -> tuple[str, list[Candidate] | list[Comparison]]:
    """What `pack_question` packed."""
    nonce, sent, rows = pickle.loads(body)
    prompts = [
        Prompt(identity, tuple(Message(*message) for message in messages), target, metadata)
        for identity, messages, target, metadata in sent
    ]
    if rows and len(rows[0]) == 3:
        return nonce, [Comparison(prompts[n], Completion(*a), Completion(*b)) for n, a, b in rows]
    return nonce, [Candidate(prompts[n], Completion(*fields)) for n, fields in rows]


def pack_answers(nonce: str, answers: Sequence[Outcome]) -> bytes:
    """The worker's reply, a column each of kinds (a letter for each label), values and reasons, in the order asked."""
    rows = [_row(answer) for answer in answers]
    kinds, values, reasons = ("".join(row[0] for row in rows), [row[1] for row in rows], [row[2] for row in rows])
    return _json(["answers", nonce, kinds, values, reasons]).encode("ascii")


def _row(answer: Outcome) -> tuple[str, Any, str]:
    reason = answer.reason if len(answer.reason) <= REASON_CHARS else cut(answer.reason)
    match answer:
        case Score(value):
            return "s", float(value), reason
        case Verdict(prefers):
            return "v", prefers, reason
        case Abstain(kind):
            return "a", kind, reason
        case Malformed():
            return "m", None, reason
        case Crashed():
            return "c", None, reason


def read_message(body: bytes) -> list[Any]:
    """A frame of the worker: a list that begins with its kind. Raises: Misbehaved."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Misbehaved(f"its answer is no JSON ({type(error).__name__})") from error
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise Misbehaved("its answer is not in the form of an answer")
    return message


def read_answers(message: list[Any], nonce: str, count: int, pairwise: bool) -> list[Outcome]:
    """The labels in an "answers" message. Raises: Misbehaved, unless there is one for each item that was asked about."""
    match message:
        case ["answers", str(said), str(kinds), list(values), list(reasons)] if said == nonce:
            if len(kinds) == len(values) == len(reasons) == count:
                return [_label(*row, pairwise) for row in zip(kinds, values, reasons, strict=True)]
    raise Misbehaved("it answered another question than the one asked")


def _label(kind: str, value: Any, reason: Any, pairwise: bool) -> Outcome:
    if type(reason) is str:
        reason = reason[:REASON_CHARS]
        if kind == "s" and type(value) is float and not pairwise and math.isfinite(value):
            return Score(value, reason)
        if kind == "v" and pairwise and value in PREFERENCES:
            return Verdict(value, reason)
        if kind == "a" and value in ABSTAIN_KINDS:
            return Abstain(value, reason)
        if kind in ("m", "c") and value is None:
            return Malformed(reason) if kind == "m" else Crashed(reason)
    raise Misbehaved("its answer is no label")


def pack_message(*parts: Any) -> bytes:
    """A message of the worker that is no label: a tool's arguments, or what went wrong."""
    return _json(list(parts)).encode("ascii")


def plain_chats(chats: Sequence[Sequence[Message]]) -> list[list[tuple[str, str]]]:
    """Chats as JSON values."""
    return [[(message.role, message.content) for message in chat] for chat in chats]


def plain_program(program: Program) -> dict[str, Any]:
    """A program as JSON values."""
    return {
        "argv": list(program.argv),
        "files": {name: _text(content) for name, content in program.files.items()},
        "stdin": _text(program.stdin),
        "timeout_s": program.timeout_s,
        "memory_mb": program.memory_mb,
        "max_output": program.max_output,
    }


def read_tool(message: list[Any]) -> tuple[str, tuple[Any, ...]]:
    """The tool that the worker asks for and its arguments. Raises: Misbehaved."""
    try:
        match message:
            case ["generate", str(), list(chats), str(schema)]:
                return "generate", (_chats(chats), schema)
            case ["rewards", str(), list(chats)]:
                return "rewards", (_chats(chats),)
            case ["run_program", str(), dict(fields)]:
                return "run_program", (_program(fields),)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Misbehaved(f"it asked for {message[0]} in a wrong form ({error})") from error
    raise Misbehaved(f"it asked for {message[0]!r:.40}, which is no tool")


def _chats(chats: list[Any]) -> list[tuple[Message, ...]]:
    """Raises: TypeError, ValueError."""
    return [tuple(Message(role, content) for role, content in chat) for chat in chats]


def _program(fields: dict[str, Any]) -> Program:
    """Raises: TypeError, ValueError, KeyError, AttributeError."""
    numbers = (float(fields["timeout_s"]), int(fields["memory_mb"]), int(fields["max_output"]))
    argv = tuple(fields["argv"])
    if not argv or not all(isinstance(word, str) for word in argv):
        raise TypeError("argv is not a list of texts")
    if not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError("a limit is not above 0")
    return Program(
        argv, {str(n): _bytes(c) for n, c in fields["files"].items()}, _bytes(fields["stdin"]), *numbers
    )  # fmt: skip


def pack_result(value: Any) -> bytes:
    """A tool's result for the worker."""
    if isinstance(value, Ran):
        value = ("ran", (value.ended, value.exit_code, value.stdout, value.stderr, value.seconds))
    return pickle.dumps(("value", value), pickle.HIGHEST_PROTOCOL)


def pack_refusal(reason: str) -> bytes:
    """Says to the worker that the tool failed."""
    return pickle.dumps(("failed", reason), pickle.HIGHEST_PROTOCOL)


def read_result(body: bytes) -> Any:
    """What the tool gave. Raises: RuntimeError when it failed."""
    kind, value = pickle.loads(body)
    if kind == "failed":
        raise RuntimeError(value)
    return Ran(*value[1]) if isinstance(value, tuple) and value[0] == "ran" else value


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _bytes(content: str) -> bytes:
    return base64.b64decode(content, validate=True)
