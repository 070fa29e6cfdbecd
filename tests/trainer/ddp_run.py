"""Runs the command line in two processes that share one import: forks before torch has made a thread."""

from __future__ import annotations

import os
import socket
import sys


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(argv: list[str]) -> int:
    import torch

    import trainer.dpo  # noqa: F401 - imported once, before the fork
    from trainer.cli import main as run

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    child = os.fork()
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if child else "1"
    code = run(argv)
    sys.stdout.flush()
    if child == 0:
        os._exit(code)
    return code or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
