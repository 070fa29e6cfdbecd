"""The loop of a confined worker: a batch in, labels out, over the one pipe that it is left with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelers import call
from labelers.errors import LabelerError
from labelers.protocol import Chat, Labeler, Program, Ran
from labelers.wire import (
    HEADER,
    pack_answers,
    pack_message,
    plain_chats,
    plain_program,
    read_question,
    read_result,
)  # fmt: skip

PIPE = 3
"""The descriptor of a worker's pipe; 0, 1 and 2 are /dev/null."""


@dataclass(frozen=True)
class RemoteTools:
    """The context of a labeler in a worker: the process that asked has the tools, and answers over the pipe."""

    scratch: Path
    nonce: str = ""

    def generate(self, chats: Sequence[Chat], schema: str = "") -> Sequence[str | None]:
        """See labelers.protocol.Context."""
        replies: list[str | None] = self._ask("generate", plain_chats(chats), schema)
        return replies

    def rewards(self, chats: Sequence[Chat]) -> Sequence[float | None]:
        """See labelers.protocol.Context."""
        rewards: list[float | None] = self._ask("rewards", plain_chats(chats))
        return rewards

    def run_program(self, program: Program) -> Ran:
        """See labelers.protocol.Context."""
        ran: Ran = self._ask("run_program", plain_program(program))
        return ran

    def _ask(self, tool: str, *arguments: Any) -> Any:
        _send(pack_message(tool, self.nonce, *arguments))
        body = _receive()
        return read_result(body)


def serve(labeler: Labeler, scratch: Path) -> None:
    """Answers until the pipe is closed. Every failure that a process can survive becomes a message."""
    while True:
        try:
            body = _receive()
            reply = _reply(labeler, scratch, body)
        except EOFError:
            return
        except MemoryError:
            reply = None
        _send(reply or pack_message("failed", "", "MemoryError", "MemoryError: beyond what a worker may take"))


def _reply(labeler: Labeler, scratch: Path, body: bytes) -> bytes:
    nonce, batch = read_question(body)
    try:
        return pack_answers(nonce, call.answers(labeler, batch, RemoteTools(scratch, nonce)))
    except LabelerError as error:
        return pack_message("error", nonce, type(error).__name__, error.what, error.where, error.hint)
    except (MemoryError, EOFError):
        raise
    except BaseException as error:
        return pack_message("failed", nonce, type(error).__name__, call.described(error))


def _send(body: bytes) -> None:
    whole = memoryview(HEADER.pack(len(body)) + body)
    while whole:
        whole = whole[os.write(PIPE, whole) :]


def _receive() -> bytes:
    (length,) = HEADER.unpack(_exactly(HEADER.size))
    return _exactly(length)


def _exactly(size: int) -> bytes:
    """Raises: EOFError."""
    parts = []
    while size:
        part = os.read(PIPE, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
