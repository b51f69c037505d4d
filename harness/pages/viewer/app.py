"""The pages of `harness view` and their addresses. All routes are read-only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from ...analysis.leaderboard import run_id
from ...analysis.pairs import PairedRuns
from ...records.errors import HarnessError
from ...records.facts import facts_of
from ..board import asset, environment
from .guard import FILE_POLICY, Guard
from .histogram import HEIGHT, bars
from .library import Library, Match, Run, search
from .listing import CHANGES, DIFFERENCE_SORTS, FLAGS, SORTS, Choice, Index, Line, LinePair, chosen, chosen_pairs, pairs
from .question import question, whole_text
from .texts import suite_texts

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
    shown = run and question(run, prompt_id, markdown=choice.markdown, draw=draw, words=choice.words)
    if run is None or shown is None:
        return missing()
    choice, index, lines, _ = _lines(library, request, run)
    return render(
        "view_question.html",
        exported=library.exported,
        run=run,
        id=prompt_id,
        line=index.line(prompt_id),
        metric=index.metric,
        question=shown,
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
    choice, all_pairs, kept, matches = _pairs(library, request, a, b)
    alike = a.card.protocol_sha == b.card.protocol_sha and a.card.headline == b.card.headline
    differences = PairedRuns({run_id(run.card): run.folder for run in (a, b)})
    prompts = tuple(suite_texts(a.card, a.folder).prompts.values())
    return render(
        "view_compare.html",
        exported=library.exported,
        a=a,
        b=b,
        choice=choice,
        pairs=kept,
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
    choice, all_pairs, kept, _ = _pairs(library, request, a, b)
    return render(
        "view_compare_question.html",
        exported=library.exported,
        a=a,
        b=b,
        id=prompt_id,
        shown=shown,
        pair=next((pair for pair in all_pairs if pair.a.id == prompt_id), None),
        choice=choice,
        total=len(kept),
        query=urlencode({"a": a.key, "b": b.key}),
        **_neighbours([pair.a.id for pair in kept], prompt_id),
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
