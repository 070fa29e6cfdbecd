"""Runs to review, the page served for real, and a real browser."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pipeline.review.app import Page
from pipeline.review.serve import opened
from tests.pipeline.audited import HONEST, Runs, answered

HOSTILE = (
    'good <script>document.title = "owned"</script>',
    "good <img src=x onerror=\"document.title = 'owned'\"> <svg onload=\"document.title = 'owned'\"></svg>",
    "good [click](javascript:document.title='owned') <a href=\"javascript:document.title='owned'\">x</a>",
    'bad {"a": "</script><script>document.title = 1</script>"}',
    "bad \x1b[31mred\x07 \u202eevil\u202c \u2066x\u2069 \U000e0041",
    "bad ```html\n<iframe srcdoc=\"<script>parent.document.title = 'owned'</script>\"></iframe>\n```",
    "good " + "x" * 300_000,
    "bad '\"><style>*{display:none}</style><form action=/undo method=post>",
)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 prompts with 96 completions."""
    return Runs(tmp_path_factory.mktemp("reviewed")).make(HONEST, answered(24), extra=LENGTH).folder


LENGTH = '[[labelers]]\nuse = "length"\nweight = 0.001'


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose completions, and one of whose prompts, try everything."""
    good, bad = [t for t in HOSTILE if t.startswith("good")], [t for t in HOSTILE if t.startswith("bad")]
    prompts = {
        f"<b onmouseover=\"document.title='owned'\">prompt {i}</b>": [g, b]
        for i, (g, b) in enumerate(zip(good, bad, strict=True))
    }
    return Runs(tmp_path_factory.mktemp("hostile")).make(HONEST, prompts).folder


class Served:
    """A page on a port of its own."""

    def __init__(self, page: Page, port: int) -> None:
        self.page = page
        self.url = f"http://127.0.0.1:{port}"

    def link(self, name: str) -> str:
        return f"{self.url}/enter?token={self.page.access.token(name)}"

    def lines(self, file: str = "verdicts.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.page.folder / file).read_text(encoding="utf-8").splitlines()]


@contextmanager
def serving(page: Page) -> Iterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(page.app(), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield Served(page, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        page.store.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Opens a run for reviewers and serves its page."""
    running = []

    def serve(run: Path, *reviewers: str, n_items: int = 100, per_item: int = 1) -> Served:
        page = opened(run, tmp_path / "people", reviewers or ("ada",), n_items, per_item)
        manager = serving(page)
        running.append(manager)
        return manager.__enter__()

    yield serve
    for manager in running:
        manager.__exit__(None, None, None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine; hint: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def window(chromium: Any) -> Iterator[Any]:
    """Opens tabs of their own cookies; a script of a text that ran, or any request elsewhere, fails the test."""
    contexts, strange = [], []

    def open_at(url: str, **settings: Any) -> Any:
        context = chromium.new_context(**settings)
        contexts.append(context)
        tab = context.new_page()
        tab.on("dialog", lambda dialog: strange.append(dialog.message))
        tab.on("pageerror", lambda error: strange.append(str(error)))
        tab.on(
            "request",
            lambda request: None if request.url.startswith("http://127.0.0.1:") else strange.append(request.url),
        )
        tab.goto(url)
        return tab

    yield open_at
    for context in contexts:
        context.close()
    assert strange == []
