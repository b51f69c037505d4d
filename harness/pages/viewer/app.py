"""Serve the pages of `harness view`, and decide who may see them. All routes are read-only.

>>> is_loopback(host_of("127.0.0.1:8000")), is_loopback(host_of("example.org"))
(True, False)
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...analysis.leaderboard import run_id
from ...analysis.read_board import PairedRuns
from ...records.errors import HarnessError
from ...records.facts import facts_of
from ..board import asset, environment
from .library import Library, Match, Run, search
from .listing import (
    CHANGES,
    DIFFERENCE_SORTS,
    FLAGS,
    HEIGHT,
    SORTS,
    Choice,
    Index,
    Line,
    LinePair,
    bars,
    chosen,
    chosen_pairs,
    pairs,
    suite_texts,
)
from .question import question, whole_text

# ------------------------------------------------------------------------------------------------ who may see the pages
# On loopback every request must name a loopback host. A page of another site whose name resolves to 127.0.0.1 (DNS
# rebinding) names its own host. Elsewhere a token is required once and stored in a cookie for this host only.


COOKIE = "harness_view"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; style-src 'self' file:; script-src 'self' file:; form-action 'none'; base-uri 'none'"
"""Of exported pages, which state it themselves. On disk some browsers take no file for 'self', hence `file:`, which a
page from a web server cannot load."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Return whether a host name or address, without a port, belongs to this machine."""
    bare = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def host_of(header: str) -> str:
    """Return a Host header's name without its port."""
    return header[: header.find("]") + 1] if header.startswith("[") else header.partition(":")[0]


class Guard:
    """Allow only requests with the token or its cookie; without a token, only those that name a loopback host."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(Request(scope))
        await (self._app if refusal is None else refusal)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        if self._token is None:
            if is_loopback(host_of(Headers(scope=request.scope).get("host", ""))):
                return None
            return PlainTextResponse("this viewer serves localhost and loopback addresses only", 421)
        if self._equal(request.cookies.get(COOKIE, "")):
            return None
        if self._equal(request.query_params.get("token", "")):
            # without the token, which would otherwise stay in the browser's history and in copied addresses
            query = [(name, value) for name, value in parse_qsl(request.url.query) if name != "token"]
            reply = RedirectResponse(request.url.path + (f"?{urlencode(query)}" if query else ""), 303)
            reply.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return reply
        return PlainTextResponse("a token is required: open the address with ?token=TOKEN once", 401)

    def _equal(self, candidate: str) -> bool:
        # constant time, so that a token cannot be guessed letter by letter
        return secrets.compare_digest(candidate.encode(), (self._token or "").encode())


# ---------------------------------------------------------------------------------------------------------------- pages


ASSETS = {"style.css": "text/css", "view.css": "text/css", "report.js": "text/javascript", "view.js": "text/javascript"}
COMPARED: dict[str, str] = {**CHANGES, **{str(flag): label for flag, label in FLAGS.items()}}
RUN = "/run/{model}/{suite}/{run_id}"


def build_app(results: Path, token: str | None = None) -> Starlette:
    """Return the application; `token` as in `Guard`."""
    return Starlette(
        routes=routes(Library(results)),
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={404: not_found, HarnessError: failed},
    )


def routes(library: Library) -> list[Route]:
    """Return the pages by address; each function takes a request and returns its response."""

    def route(path: str, page: Callable[[Library, Request], Response]) -> Route:
        return Route(path, partial(page, library), methods=["GET"])

    return [
        route("/", home),
        route(RUN, run_page),
        route(RUN + "/question", question_page),
        route(RUN + "/text", text_page),
        route("/compare", compare_page),
        route("/compare/question", compare_question_page),
        route("/static/{name}", static),
    ]


def render(name: str, status: int = 200, /, *, exported: bool = False, **values: object) -> HTMLResponse:
    return HTMLResponse(
        environment().get_template(name).render(exported=exported, policy=FILE_POLICY, **values), status
    )


async def not_found(request: Request, error: Exception) -> Response:
    return missing()


async def failed(request: Request, error: Exception) -> Response:
    return failed_page(error)


def failed_page(error: Exception, *, exported: bool = False) -> HTMLResponse:
    return render("view_error.html", 500, exported=exported, title="This page cannot be shown", text=str(error))


def missing() -> Response:
    return render("view_error.html", 404, title="Not found", text="There is no such run, question or page here.")


def static(library: Library, request: Request) -> Response:
    name = request.path_params["name"]
    return Response(asset(name), media_type=ASSETS[name]) if name in ASSETS else missing()


def home(library: Library, request: Request) -> Response:
    """Render all runs, ranked per protocol."""
    runs = library.runs()
    links = {run_id(run.card): run.address for run in runs}
    return render(
        "view_home.html",
        exported=library.exported,
        tables=library.tables(runs),
        links=links,
        runs=runs,
        broken=library.broken,
    )


def run_page(library: Library, request: Request) -> Response:
    """Render one run: its card and the chosen questions."""
    run = _run(library, request)
    if run is None:
        return missing()
    choice, index, lines, matches = _lines(library, request, run)
    return render(
        "view_run.html",
        exported=library.exported,
        run=run,
        index=index,
        choice=choice,
        lines=lines,
        matches=matches,
        bars=bars([line.score for line in index.lines], signed=False),
        bar_height=HEIGHT,
        counts=index.counts(),
        flags=FLAGS,
        sorts=SORTS,
        other_runs=[] if library.exported else library.others(run),
        comparisons=library.comparisons(run) if library.exported else [],
    )


def question_page(library: Library, request: Request) -> Response:
    """Render one question of a run, with its neighbours in the chosen list."""
    run, prompt_id = _run(library, request), request.query_params.get("id", "")
    choice = Choice.of(request.query_params)
    draw = request.query_params.get("draw", "")
    view = run and question(run, prompt_id, markdown=choice.markdown, draw=draw, words=choice.words)
    if run is None or view is None:
        return missing()
    choice, index, lines, _ = _lines(library, request, run)
    return render(
        "view_question.html",
        exported=library.exported,
        run=run,
        id=prompt_id,
        line=index.line(prompt_id),
        metric=index.metric,
        question=view,
        choice=choice,
        total=len(lines),
        flags=FLAGS,
        **_neighbours([line.id for line in lines], prompt_id),
    )


def text_page(library: Library, request: Request) -> Response:
    """Return one complete text as plain text."""
    run, query = _run(library, request), request.query_params
    text = None if run is None else whole_text(run, query.get("id", ""), query.get("part", ""))
    return missing() if text is None else PlainTextResponse(text.encode("utf-8", "replace"))


def compare_page(library: Library, request: Request) -> Response:
    """Render two runs question by question."""
    a, b = _two_runs(library, request)
    if a is None or b is None:
        return missing()
    choice, all_pairs, matching, matches = _pairs(library, request, a, b)
    alike = a.card.protocol_sha == b.card.protocol_sha and a.card.headline == b.card.headline
    differences = PairedRuns({run_id(run.card): run.folder for run in (a, b)})
    prompts = tuple(suite_texts(a.card, a.folder).prompts.values())
    return render(
        "view_compare.html",
        exported=library.exported,
        a=a,
        b=b,
        choice=choice,
        pairs=matching,
        all=all_pairs,
        matches=matches,
        bars=bars([pair.difference for pair in all_pairs], signed=True),
        bar_height=HEIGHT,
        metric=library.index(a).metric,
        step=differences.difference(b.card, a.card) if alike else None,
        alike=alike,
        by_category=differences.by_category(b.card, a.card, prompts or None) if alike else [],
        flags=COMPARED,
        sorts=DIFFERENCE_SORTS,
        categories=library.index(a).categories,
        query=urlencode({"a": a.key, "b": b.key}),
    )


def compare_question_page(library: Library, request: Request) -> Response:
    """Render one question of two runs."""
    (a, b), prompt_id = _two_runs(library, request), request.query_params.get("id", "")
    choice = Choice.of(request.query_params)
    shown = [run and question(run, prompt_id, markdown=choice.markdown, words=choice.words) for run in (a, b)]
    if a is None or b is None or None in shown:
        return missing()
    choice, all_pairs, matching, _ = _pairs(library, request, a, b)
    return render(
        "view_compare_question.html",
        exported=library.exported,
        a=a,
        b=b,
        id=prompt_id,
        shown=shown,
        pair=next((pair for pair in all_pairs if pair.a.id == prompt_id), None),
        choice=choice,
        total=len(matching),
        query=urlencode({"a": a.key, "b": b.key}),
        **_neighbours([pair.a.id for pair in matching], prompt_id),
    )


def _run(library: Library, request: Request) -> Run | None:
    return library.run("/".join(request.path_params[name] for name in ("model", "suite", "run_id")))


def _two_runs(library: Library, request: Request) -> tuple[Run | None, Run | None]:
    return library.run(request.query_params.get("a", "")), library.run(request.query_params.get("b", ""))


def _lines(library: Library, request: Request, run: Run) -> tuple[Choice, Index, list[Line], dict[str, Match]]:
    """Return what was chosen, the run's index, its chosen lines, and where each has the searched words."""
    choice, index = Choice.of(request.query_params), library.index(run)
    matches = search(run, choice.words) if choice.words else {}
    return choice, index, chosen(index, choice, matches if choice.words else None), matches


def _pairs(
    library: Library, request: Request, a: Run, b: Run
) -> tuple[Choice, list[LinePair], list[LinePair], dict[str, Match]]:
    choice = Choice.of(request.query_params)
    all_pairs = pairs(library.index(a), library.index(b), middle=facts_of(a.card.suite).neutral)
    matches = search(b, choice.words) | search(a, choice.words) if choice.words else {}
    return choice, all_pairs, chosen_pairs(all_pairs, choice, matches if choice.words else None), matches


def _neighbours(ids: list[str], current: str) -> dict[str, str | int | None]:
    """Return the ids before and after, and the position from 1; all None for an id that is not in the list."""
    if current not in ids:
        return {"previous": None, "following": ids[0] if ids else None, "position": None}
    index = ids.index(current)
    return {
        "previous": ids[index - 1] if index else None,
        "following": ids[index + 1] if index + 1 < len(ids) else None,
        "position": index + 1,
    }
