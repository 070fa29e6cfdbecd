"""The page: forms and links that work without a script; the script adds keys. No text of a model is ever markup here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pipeline.review.access import COOKIE, Access
from pipeline.review.index import Group, Index, Shown
from pipeline.review.markup import coloured, compared, escaped
from pipeline.review.people import agreements, reviewers, write_files
from pipeline.review.store import CHOICES, LONGEST_RESPONSE, Asked, Store

STATIC = Path(__file__).parent / "static"
ROWS = 25
FILTERS = ("family", "source", "min_margin", "max_margin", "order")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # a link that lets a reviewer in holds a token; `no-referrer` would take forms their Origin
    "X-Content-Type-Options": "nosniff",
}
SAID = {
    "left": "left is better",
    "right": "right is better",
    "tie": "a tie",
    "both_bad": "both are bad",
    "skip": "skipped",
}


@dataclass(frozen=True)
class Page:
    """What the page needs. `folder` is where people's files lie."""

    index: Index
    store: Store
    access: Access
    folder: Path

    def app(self) -> Starlette:
        """The web application."""
        routes = [
            Route("/enter", self.enter),
            Route("/", self.item),
            Route("/verdict", self.verdict, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
            Route("/response", self.response, methods=["POST"]),
            Route("/progress", self.progress),
            Route("/pairs", self.rows),
            Route("/groups", self.rows),
            Route("/group/{prompt_id}", self.group),
            Route("/text/{prompt_id}/{completion_id}", self.text),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guard)])

    async def enter(self, request: Request) -> Response:
        """Takes the token of a reviewer's link into a cookie that no script can read."""
        token = request.query_params.get("token")
        if self.access.reviewer(token) is None:
            return _refused()
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, token or "", httponly=True, samesite="strict", max_age=90 * 86400)
        return answer

    async def item(self, request: Request) -> Response:
        """The next item, or the one that was asked for."""
        me = request.state.reviewer
        again = request.query_params.get("item")
        asked = self.store.asked(again, me) if again else None
        asked = asked or await run_in_threadpool(self.store.next, me)
        done, left = self.store.progress(me)
        said = SAID.get(request.query_params.get("said", ""), "")
        group = self.index.group(asked.prompt_id) if asked else None
        if asked is None or group is None:
            return _page("done", me=me, done=done, left=left, said=said)
        shown = await run_in_threadpool(_sides, asked, group)
        return _page("item", me=me, done=done, left=left, said=said, asked=asked, group=group, **shown)

    async def verdict(self, request: Request) -> Response:
        """Keeps a verdict and goes on to the next item."""
        form, me = await request.form(), request.state.reviewer
        asked, choice = self.store.asked(str(form.get("item")), me), str(form.get("choice"))
        if asked is None or choice not in CHOICES:
            return PlainTextResponse("no such item or choice; hint: go back and reload the page", 400)
        note, seconds = str(form.get("note", "")), _seconds(str(form.get("seconds", "")))
        await run_in_threadpool(self.store.judge, asked, me, choice, seconds, note)
        await self._written()
        return RedirectResponse(f"/?{urlencode({'said': choice})}", 303)

    async def undo(self, request: Request) -> Response:
        """Takes the reviewer's last verdict back and shows its item again."""
        item = await run_in_threadpool(self.store.undo, request.state.reviewer)
        await self._written()
        return RedirectResponse(f"/?{urlencode({'item': item})}" if item else "/", 303)

    async def response(self, request: Request) -> Response:
        """Keeps a response that the reviewer wrote."""
        form, me = await request.form(max_part_size=4 * LONGEST_RESPONSE), request.state.reviewer
        asked, text = self.store.asked(str(form.get("item")), me), str(form.get("text", "")).replace("\r\n", "\n")
        if asked is None or not text.strip():
            return PlainTextResponse("no such item, or an empty response; hint: go back and write one", 400)
        based_on = {"left": asked.left_id, "right": asked.right_id}.get(str(form.get("based_on")))
        await run_in_threadpool(self.store.respond, asked.prompt_id, me, text, based_on)
        await self._written()
        return RedirectResponse(f"/?{urlencode({'item': asked.item_id, 'kept': 1})}", 303)

    async def progress(self, request: Request) -> Response:
        """Who judged how much, and who agrees with whom."""
        done, left = self.store.progress(request.state.reviewer)
        found = await run_in_threadpool(agreements, self.store)
        counted = reviewers(self.store).most_common()
        return _page("progress", me=request.state.reviewer, done=done, left=left, counted=counted, found=found)

    async def rows(self, request: Request) -> Response:
        """A page of the run's pairs or groups, filtered."""
        kind = request.url.path.strip("/")
        where = {name: request.query_params.get(name, "").strip() for name in FILTERS}
        try:
            start = max(0, int(request.query_params.get("start", "0")))
            total, rows = await run_in_threadpool(self.index.page, kind, where, start, ROWS)
        except ValueError:
            return PlainTextResponse("a margin and a start are numbers; hint: empty means no limit", 400)
        kept = {name: value for name, value in where.items() if value}
        places = {"newer": start - ROWS if start else None, "older": start + ROWS if start + ROWS < total else None}
        links = {
            name: f"/{kind}?{urlencode({**kept, 'start': max(0, place)})}" if place is not None else None
            for name, place in places.items()
        }
        lists = {"families": self.index.families(), "sources": self.index.sources()}
        return _page(
            "rows", me=request.state.reviewer, kind=kind, rows=rows, total=total, start=start, where=where, links=links, **lists
        )  # fmt: skip

    async def group(self, request: Request) -> Response:
        """A prompt with its completions, scores and verdicts."""
        found = await run_in_threadpool(self.index.group, request.path_params["prompt_id"])
        if found is None:
            return PlainTextResponse("this run has no such prompt", 404)
        labelers = sorted({name for scores in found.scores.values() for name in scores})
        return _page("group", me=request.state.reviewer, group=found, labelers=labelers)

    async def text(self, request: Request) -> Response:
        """The whole text of one completion, as plain text."""
        found = self.index.group(request.path_params["prompt_id"])
        shown = found.completions.get(request.path_params["completion_id"]) if found else None
        return PlainTextResponse(shown.text) if shown else PlainTextResponse("this run has no such completion", 404)

    async def _guard(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """Lets in who has a token; a form counts only when it was sent from this very page."""
        request.state.reviewer = self.access.reviewer(request.cookies.get(COOKIE))
        elsewhere = request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if request.url.path not in ("/enter", "/static/review.css") and request.state.reviewer is None:
            response: Response = _refused()
        elif request.method == "POST" and (elsewhere or not _same_origin(request)):
            response = PlainTextResponse("this form was sent from another page", 403)
        else:
            response = await answer(request)
        response.headers.update(HEADERS)
        if not request.url.path.startswith("/static/"):
            response.headers["Cache-Control"] = "no-store"
        return response

    async def _written(self) -> None:
        await run_in_threadpool(write_files, self.folder, self.store, self.index)


def _same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _sides(asked: Asked, group: Group) -> dict[str, Any]:
    """Both completions as HTML, plain and compared. A completion of an older build is not there any more."""
    texts = [_text(group.completions.get(one)) for one in (asked.left_id, asked.right_id)]
    return {
        "prompt": [(turn["role"], coloured(turn["content"])) for turn in group.messages],
        "sides": list(zip(("left", "right"), map(coloured, texts), compared(*texts), texts, strict=True)),
    }


def _text(shown: Shown | None) -> str:
    return shown.text if shown else "(this completion is not in the run any more: skip it)"


def _seconds(said: str) -> float | None:
    try:
        value = float(said)
    except ValueError:
        return None
    return round(value, 1) if 0 <= value < 86400 else None


def _refused() -> Response:
    return PlainTextResponse(
        "403: open the link that `python -m pipeline review` printed for you; it holds your token", 403
    )


def _page(name: str, **values: Any) -> Response:
    return HTMLResponse(_environment().get_template(f"{name}.html.jinja").render(page=name, **values))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.review"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(escaped=escaped, coloured=coloured)
    return environment
