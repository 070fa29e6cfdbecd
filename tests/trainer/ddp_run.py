"""Runs command lines in two processes that share one import, as torchrun would: forks before torch has made a thread.

The command lines are separated by the word NEXT.
"""

from __future__ import annotations

import os
import socket
import sys


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def split(argv: list[str]) -> list[list[str]]:
    """The command lines."""
    found: list[list[str]] = [[]]
    for word in argv:
        if word == "NEXT":
            found.append([])
        else:
            found[-1].append(word)
    return found


def main(argv: list[str]) -> int:
    import torch

    import trainer.dpo  # noqa: F401 - imported once, before the fork
    from trainer.cli import main as run

    torch.set_num_threads(1)
    runs = [(line, str(free_port())) for line in split(argv)]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    child = os.fork()
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if child else "1"
    code = 0
    for line, port in runs:
        os.environ["MASTER_PORT"] = port
        code = code or run(line)
    sys.stdout.flush()
    if child == 0:
        os._exit(code)
    return code or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
