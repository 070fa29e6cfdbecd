"""A judge to try things with where there is no model: a chat server that prefers the shorter answer, or always the first.

python -m tests.docs.stand_in --port 8000        # Ctrl-C ends it
"""

from __future__ import annotations

import argparse
import re
import time
from contextlib import suppress

from tests.serving import Answer, Body, ChatServer, saying, serving

BETWEEN = re.compile(r"^-+ answer ([AB]) (\w+) starts -+\n(.*?)\n-+ answer \1 \2 ends -+$", re.MULTILINE | re.DOTALL)


def judge(body: Body, tries: int) -> Answer:
    """The verdict on a question of the labeler `judge`: by length, or of the model `first` always A."""
    asked = str(body["messages"][-1]["content"])
    texts = {name: text for name, _, text in BETWEEN.findall(asked)}
    by_length = "A" if len(texts["A"]) < len(texts["B"]) else "B" if len(texts["B"]) < len(texts["A"]) else "C"
    return saying(f"[[{'A' if body['model'] == 'first' else by_length}]]", len(asked.split()), 5)


def server(port: int = 0) -> ChatServer:
    """The server, not answering yet; port 0 takes a free one."""
    made = ChatServer(judge, port=port)
    made.models = ("shorter", "first")
    return made


def main() -> None:
    """Answers until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    with serving(server(parser.parse_args().port)) as answering, suppress(KeyboardInterrupt):
        print(answering.url, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
