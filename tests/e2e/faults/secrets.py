"""Keys and tokens in the environment and at home: no file of a run and nothing that it says may hold one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.e2e.faults.runs import cli

CANARY = "c4n4ry-{}-0d1f00d"
VARIABLES = (
    "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN", "WANDB_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_KEY",
    "DATABASE_URL", "NETRC_PASSWORD",
)  # fmt: skip
TELLTALE = '''
from dataclasses import dataclass
import os, pathlib
from labelers.types import Example, Needs, Prompt, Score

@dataclass(frozen=True)
class Telltale:
    """Tells all it can see, as a careless plugin does."""
    name, version, needs = "telltale", "1", Needs()
    examples = [Example(Prompt.of("p"), better="aa", worse="a")]
    def score(self, batch, ctx):
        seen = repr(dict(os.environ))
        for path in (".netrc", ".cache/huggingface/token", ".aws/credentials"):
            try:
                seen += (pathlib.Path(os.environ.get("HOME", "/")) / path).read_text()
            except OSError as error:
                seen += repr(error)
        return [Score(float(len(c.completion.text)), seen) for c in batch]
'''


def planted(home: Path) -> tuple[dict[str, str], set[bytes]]:
    """An environment and a home full of canaries, and what to look for: each as it is and in base64."""
    variables = {name: CANARY.format(name) for name in VARIABLES}
    files = {
        ".netrc": "netrc",
        ".cache/huggingface/token": "hub",
        ".aws/credentials": "aws",
        ".config/gh/hosts.yml": "gh",
    }
    for name, canary in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"machine example.org login me password {CANARY.format(canary)}\n")
    words = {*variables.values(), *map(CANARY.format, files.values())}
    coded = {base64.b64encode(word.encode()).rstrip(b"=")[:-2] for word in words}
    return {**variables, "HOME": str(home)}, {*(word.encode() for word in words), *coded}


def leaks(places: list[Path], said: list[str], canaries: set[bytes]) -> list[str]:
    """Where a canary is found: in files' names and contents, and in what was said."""
    found = [f"said: {canary!r}" for canary in canaries for text in said if canary in text.encode()]
    for path in (path for place in places for path in place.rglob("*") if path.is_file()):
        content = str(path).encode() + path.read_bytes()
        found += [f"{path}: {canary!r}" for canary in canaries if canary in content]
    return found


class Echo(BaseHTTPRequestHandler):
    """A server that refuses a key and repeats it in its answer, as providers do."""

    def do_GET(self) -> None:
        """Refuses."""
        self._refuse()

    def do_POST(self) -> None:
        """Refuses."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._refuse()

    def _refuse(self) -> None:
        said = f"Incorrect API key provided: {self.headers.get('Authorization')}"
        body = json.dumps({"error": {"message": said}}).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def echoing() -> Iterator[str]:
    """The address of such a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def keeps_secrets(inputs: Path, folder: Path) -> str:
    """A run with a plugin that tells all, a run that fails at a server that repeats the key, and every reading command."""
    environment, canaries = planted(folder / "home")
    head, _, _ = (inputs / "config.toml").read_text().partition("[[labelers]]")
    (inputs / "telltale.py").write_text(TELLTALE)
    (inputs / "tells.toml").write_text(
        f'{head}[[labelers]]\nuse = "./telltale.py:Telltale"\n[audit]\nenforce = false\n'
    )
    root = folder / "runs"
    done = [cli("run", inputs / "tells.toml", "--root", root, **environment)]
    assert done[0].returncode == 0, done[0].stderr[-2000:]
    with echoing() as url:
        engine = f'{{use = "http", base_url = "{url}", model = "m", max_retries = 0}}'
        asks = head.replace('name = "faults"', 'name = "asks"')
        (inputs / "asks.toml").write_text(f'{asks}[[labelers]]\nuse = "judge"\nengine = {engine}\n')
        done.append(cli("run", inputs / "asks.toml", "--root", root, **environment))
        assert done[1].returncode == 1, done[1].stderr[-2000:]
    for asked in (("status",), ("show",), ("verify",), ("versions",), ("report",)):
        done.append(cli(*asked, root / "faults", **environment))
    found = leaks([root], [text for each in done for text in (each.stdout, each.stderr)], canaries)
    assert not found, found
    return f"{len(canaries) // 2} canaries in no file and no word of {len(done)} commands"
