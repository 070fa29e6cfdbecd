"""Starts the review page: opens the run, prints a link for each reviewer, serves until it is interrupted."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.review.access import Access
from pipeline.review.app import Page
from pipeline.review.index import Index
from pipeline.review.people import write_files
from pipeline.review.queue import queue
from pipeline.review.store import Store

FILE = "review.sqlite"


def opened(run: Path, folder: Path, reviewers: Sequence[str], n_items: int, per_item: int) -> Page:
    """The page of a run, its queue filled.

    Args:
        folder: where people's verdicts and responses are kept.
        n_items: match-ups to ask about.
        per_item: reviewers that each goes to.

    Raises:
        ConfigError: the run has no pairs yet, or a reviewer's name is none.
    """
    if per_item > len(reviewers):
        raise ConfigError(
            f"each item is to go to {per_item} reviewers and there are {len(reviewers)}; hint: --reviewer for each"
        )
    access = Access(folder, reviewers)
    index, store = Index(run), Store(folder / FILE, per_item)
    store.offer(queue(index, n_items))
    write_files(folder, store, index)
    return Page(index, store, access, folder)


def serve(page: Page, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted.

    Raises:
        ConfigError: the address is not this machine's, or taken.
    """
    import uvicorn

    listener = _listener(host, port)
    shown = f"[{host}]" if ":" in host else host
    for name in page.access.names:
        say(f"{name}: http://{shown}:{listener.getsockname()[1]}/enter?token={page.access.token(name)}")
    if not is_loopback(host):
        say(
            "listening beyond this machine, unencrypted: whoever reads the traffic reads the tokens; "
            "hint: ssh -L, or a proxy with TLS"
        )
    server = uvicorn.Server(uvicorn.Config(page.app(), log_level="warning", access_log=False, server_header=False))
    try:
        with suppress(KeyboardInterrupt):  # uvicorn passes on what ended it: that is how one leaves
            server.run(sockets=[listener])
    finally:
        page.store.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listener(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({error}); hint: --port 0 takes a free one"
        ) from error
