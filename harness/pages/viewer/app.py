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

from ...analysis.leaderboard import against, run_id
from ...records.errors import HarnessError
from ..board import asset, environment
from .guard import Guard
from .library import CHANGES, DIFFERENCE_SORTS, FLAGS, SORTS, Choice, Library, Run, chosen, chosen_pairs, pairs
from .question import question, whole_text

ASSETS = {"style.css": "text/css", "view.css": "text/css", "report.js": "text/javascript", "view.js": "text/javascript"}
COMPARED: dict[str, str] = {**CHANGES, **{str(flag): label for flag, label in FLAGS.items()}}
RUN = "/run/{model}/{suite}/{run_id}"


def build_app(results: Path, token: str | None = None) -> Starlette:
    """Return the application; `token` as in `Guard`."""
    library = Library(results)

    def route(path: str, page: Callable[[Library, Request], Response]) -> Route:
        return Route(path, partial(page, library), methods=["GET"])

    return Starlette(
        routes=[
            route("/", home),
            route(RUN, run_page),
            route(RUN + "/question", question_page),
            route(RUN + "/text", text_page),
            route("/compare", compare_page),
            route("/compare/question", compare_question_page),
            route("/static/{name}", static),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={404: not_found, HarnessError: failed},
    )


def render(name: str, status: int = 200, **values: object) -> HTMLResponse:
    return HTMLResponse(environment().get_template(name).render(**values), status)


async def not_found(request: Request, error: Exception) -> Response:
    return render("view_error.html", 404, title="Not found", text="There is no such run, question or page here.")


async def failed(request: Request, error: Exception) -> Response:
    return render("view_error.html", 500, title="This cannot be shown", text=str(error))


def missing() -> Response:
    return render("view_error.html", 404, title="Not found", text="There is no such run, question or page here.")


def static(library: Library, request: Request) -> Response:
    name = request.path_params["name"]
    return Response(asset(name), media_type=ASSETS[name]) if name in ASSETS else missing()


def home(library: Library, request: Request) -> Response:
    """Render all runs, ranked per protocol, from the cards only."""
    runs = library.runs()
    tables = library.tables(runs)
    links = {run_id(run.card): run.address for run in runs}
    return render("view_home.html", tables=tables, links=links, runs=runs, broken=library.broken)


def _run(library: Library, request: Request) -> Run | None:
    parts = (request.path_params[name] for name in ("model", "suite", "run_id"))
    return library.run("/".join(parts))


def _chosen_ids(library: Library, run: Run, choice: Choice) -> set[str] | None:
    return library.search(run, choice.words) if choice.words else None


def run_page(library: Library, request: Request) -> Response:
    """Render one run: its card and the chosen questions."""
    run = _run(library, request)
    if run is None:
        return missing()
    choice = Choice.of(request.query_params)
    index = library.index(run)
    other_runs = [candidate for candidate in library.runs() if _comparable(run, candidate) and candidate.key != run.key]
    return render(
        "view_run.html",
        run=run,
        index=index,
        choice=choice,
        lines=chosen(index, choice, _chosen_ids(library, run, choice)),
        counts=index.counts(),
        flags=FLAGS,
        sorts=SORTS,
        other_runs=other_runs,
    )


def _comparable(run: Run, candidate: Run) -> bool:
    return (run.card.suite, run.card.suite_version) == (candidate.card.suite, candidate.card.suite_version)


def question_page(library: Library, request: Request) -> Response:
    """Render one question of a run, with its neighbours in the chosen list."""
    run, prompt_id = _run(library, request), request.query_params.get("id", "")
    markdown = request.query_params.get("as") != "text"
    draw = request.query_params.get("draw", "")
    shown = None if run is None else question(library, run, prompt_id, markdown=markdown, draw=draw)
    if run is None or shown is None:
        return missing()
    choice = Choice.of(request.query_params)
    index = library.index(run)
    lines = chosen(index, choice, _chosen_ids(library, run, choice))
    previous, following, position = _neighbours([line.id for line in lines], prompt_id)
    return render(
        "view_question.html",
        run=run,
        id=prompt_id,
        line=index.line(prompt_id),
        metric=index.metric,
        question=shown,
        choice=choice,
        previous=previous,
        following=following,
        position=position,
        total=len(lines),
        markdown=markdown,
        flags=FLAGS,
    )


def _neighbours(ids: list[str], current: str) -> tuple[str | None, str | None, int | None]:
    """Return the ids before and after, and the position from 1; all None for an id that is not in the list."""
    if current not in ids:
        return None, ids[0] if ids else None, None
    index = ids.index(current)
    return ids[index - 1] if index else None, ids[index + 1] if index + 1 < len(ids) else None, index + 1


def text_page(library: Library, request: Request) -> Response:
    """Return one complete text as plain text."""
    run, prompt_id = _run(library, request), request.query_params.get("id", "")
    text = None if run is None else whole_text(library, run, prompt_id, request.query_params.get("part", ""))
    return missing() if text is None else PlainTextResponse(text.encode("utf-8", "replace"))


def _two(library: Library, request: Request) -> tuple[Run, Run] | None:
    runs = [library.run(request.query_params.get(name, "")) for name in ("a", "b")]
    return (runs[0], runs[1]) if runs[0] is not None and runs[1] is not None else None


def compare_page(library: Library, request: Request) -> Response:
    """Render two runs question by question."""
    two = _two(library, request)
    if two is None:
        return missing()
    a, b = two
    choice = Choice.of(request.query_params)
    all_pairs = pairs(library.index(a), library.index(b), middle=_middle(a))
    return render(
        "view_compare.html",
        a=a,
        b=b,
        choice=choice,
        pairs=chosen_pairs(all_pairs, choice, _pair_ids(library, a, b, choice)),
        all=all_pairs,
        metric=library.index(a).metric,
        step=against(b.card, a.card, library.sums(a) | library.sums(b)) if _alike(a, b) else None,
        alike=_alike(a, b),
        flags=COMPARED,
        sorts=DIFFERENCE_SORTS,
        categories=library.index(a).categories,
        query=_names(a, b),
    )


def _alike(a: Run, b: Run) -> bool:
    return a.card.protocol_sha == b.card.protocol_sha and a.card.headline == b.card.headline


def _middle(run: Run) -> float | None:
    """Return half of a rate's scale; None if questions are rated."""
    return None if run.card.suite.startswith("mt_bench") else 50.0


def _pair_ids(library: Library, a: Run, b: Run, choice: Choice) -> set[str] | None:
    return library.search(a, choice.words) | library.search(b, choice.words) if choice.words else None


def _names(a: Run, b: Run) -> str:
    return urlencode({"a": a.key, "b": b.key})


def compare_question_page(library: Library, request: Request) -> Response:
    """Render one question of two runs."""
    two, prompt_id = _two(library, request), request.query_params.get("id", "")
    markdown = request.query_params.get("as") != "text"
    shown = [question(library, run, prompt_id, markdown=markdown) for run in two or ()]
    if two is None or None in shown:
        return missing()
    a, b = two
    choice = Choice.of(request.query_params)
    all_pairs = pairs(library.index(a), library.index(b), middle=_middle(a))
    kept = chosen_pairs(all_pairs, choice, _pair_ids(library, a, b, choice))
    previous, following, position = _neighbours([pair.a.id for pair in kept], prompt_id)
    return render(
        "view_compare_question.html",
        a=a,
        b=b,
        id=prompt_id,
        shown=shown,
        pair=next((pair for pair in all_pairs if pair.a.id == prompt_id), None),
        choice=choice,
        previous=previous,
        following=following,
        position=position,
        total=len(kept),
        markdown=markdown,
        query=_names(a, b),
    )
