"""The page as a web application: whole once, then only those parts that changed."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from threading import Event, Lock
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, StreamingResponse

from dflmoe.data.findings import Finding
from dflmoe.errors import DflmoeError
from dflmoe.node.audit import lines_of
from dflmoe.node.doctor import examined
from dflmoe.node.home import Home
from dflmoe.node.seen import Seen, ago, look, told_of
from dflmoe.node.status import Peer
from dflmoe.node.store import STORE, Store
from dflmoe.report.pages import environment
from dflmoe.web.door import COOKIE, Door
from dflmoe.web.drawn import drawn

PARTS = ("now", "scores", "peers", "aside", "outages", "log")
"""What is swapped when it changes, each by itself."""

LOOK_S, EXAMINED_S = 1.0, 60.0
"""Between two looks at the site's folder; how long what the doctor found is shown again."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

ASSETS = {
    "htmx.min.js": "text/javascript",
    "sse.min.js": "text/javascript",
    "page.css": "text/css",
}

WRONG = {
    "token": (
        401,
        "This page is shown with the token that dflmoe page printed; open that address.",
    ),
    "host": (421, "This page is served to this machine only; open it as 127.0.0.1 or localhost."),
}

STATES = {
    "known": "named in the roster",
    "reachable": "answers, but is not let in or does not let us in",
    "authenticated": "connected, and has lent nothing yet",
    "lending": "its head is held",
    "used": "its head counts in the mixture",
}


class Doctor:
    """What the doctor found last, of all that can be looked at without disturbing a node."""

    def __init__(self, home: Home) -> None:
        self._home, self._lock = home, Lock()
        self._found: list[Finding] = []
        self._at = -EXAMINED_S

    def found(self) -> list[Finding]:
        """Return findings that are at most a minute old."""
        with self._lock:
            if time.monotonic() - self._at > EXAMINED_S:
                self._found, self._at = list(examined(self._home, still=True)), time.monotonic()
            return self._found


def application(home: Home, door: Door) -> FastAPI:
    """Return the page of a site.

    Args:
        home: The site's folder; nothing in it is written.
        door: Who may come in.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages = environment("dflmoe.web")
    pages.filters |= {"aged": _aged, "told": told_of, "away": _away}
    pages.globals |= {"states": STATES, "parts": PARTS, "draw": drawn}
    doctor = Doctor(home)

    def part(name: str, seen: Seen) -> str:
        return pages.get_template(f"{name}.html").render(seen=seen)

    def looked() -> Seen | str:
        try:
            return look(home)
        except DflmoeError as error:
            return str(error)

    @app.middleware("http")
    async def let_in(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        asked = request.headers.get("host", ""), request.headers.get("cookie", "")
        answer = door.asks(*asked, request.query_params.get("token"))
        if answer == "shown":
            response: Response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, door.sign, httponly=True, samesite="strict")
        elif answer == "in":
            response = await go_on(request)
        else:
            status, sentence = WRONG[answer]
            page = pages.get_template("closed.html").render(sentence=sentence)
            response = HTMLResponse(page, status)
        response.headers.update(HEADERS)
        return response

    @app.get("/")
    def whole() -> HTMLResponse:
        seen = looked()
        if isinstance(seen, str):
            return HTMLResponse(pages.get_template("closed.html").render(sentence=seen), 503)
        shown = {name: part(name, seen) for name in PARTS}
        return HTMLResponse(pages.get_template("page.html").render(seen=seen, shown=shown))

    @app.get("/assets/{name}")
    def asset(name: str) -> Response:
        if name not in ASSETS:
            return PlainTextResponse("there is no such file", 404)
        raw = (files("dflmoe.web") / "assets" / name).read_bytes()
        return Response(raw, media_type=ASSETS[name])

    @app.get("/doctor")
    def examine() -> HTMLResponse:
        return HTMLResponse(pages.get_template("doctor.html").render(found=doctor.found()))

    @app.get("/events")
    async def events(request: Request) -> StreamingResponse:
        async def told() -> AsyncIterator[str]:
            sent: dict[str, str] = {}
            while not await request.is_disconnected() and not app.state.ends.is_set():
                seen = await asyncio.to_thread(looked)
                parts = {} if isinstance(seen, str) else {name: part(name, seen) for name in PARTS}
                for name, text in parts.items():
                    mark = hashlib.sha256(text.encode()).hexdigest()
                    if sent.get(name) != mark:
                        sent[name] = mark
                        lines = "".join(f"data: {line}\n" for line in text.splitlines())
                        yield f"event: {name}\n{lines}\n"
                yield ": still there\n\n"
                await asyncio.sleep(LOOK_S)

        return StreamingResponse(told(), media_type="text/event-stream")

    @app.get("/download/{name}")
    def download(name: Literal["status.json", "rounds.json", "audit.jsonl"]) -> Response:
        return _download(home, name)

    app.state.ends = Event()
    return app


def _download(home: Home, name: str) -> Response:
    """Return a file that people take along."""
    try:
        seen = look(home)
        if name == "status.json":
            text = seen.status.model_dump_json(indent=1) if seen.status else "null"
        elif name == "rounds.json":
            rounds = [{"at": f"{p.at}", **p.summary.model_dump()} for p in seen.rounds]
            text = json.dumps(rounds, indent=1)
        else:
            store = Store(home.folder / STORE, reads=True)
            try:
                text = b"".join(lines_of(store, seen.site)).decode()
            finally:
                store.close()
    except DflmoeError as error:
        return PlainTextResponse(str(error), 503)
    attached = {"Content-Disposition": f'attachment; filename="{home.site.name}-{name}"'}
    return Response(text, media_type="application/octet-stream", headers=attached)


def _aged(seconds: float) -> str:
    """Return how long ago something came, in words."""
    return ago(datetime.now(UTC) - timedelta(seconds=seconds))


def _away(peer: Peer) -> str:
    """Return how a peer is connected, in words."""
    if peer.connected:
        return "connected"
    return "away" if peer.problem is None else f"away: {peer.problem}"
