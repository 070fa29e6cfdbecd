"""`python -m pipeline`, with every request that an engine answers written down.

python -m tests.e2e.chaos.noted REQUESTS ARGUMENT ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any


def note_requests(path: str) -> None:
    """Has the engines write each request's id to `path` as they answer it: how often one was sampled is a count of lines."""
    from pipeline.engines.replay import RunningReplay
    from pipeline.engines.vllm import RunningVllm

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for engine in (RunningReplay, RunningVllm):
        generate = engine.generate

        def noted(self: Any, requests: Any, generate: Any = generate) -> Iterator[Any]:
            for generation in generate(self, requests):
                os.write(descriptor, f"{generation.request_id}\n".encode())
                yield generation

        engine.generate = noted  # type: ignore[method-assign]


if __name__ == "__main__":  # vLLM's engine process imports this module
    from pipeline.cli.main import main

    note_requests(sys.argv[1])
    sys.argv = ["pipeline", *sys.argv[2:]]
    main()
