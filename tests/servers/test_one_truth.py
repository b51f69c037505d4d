"""Board, viewer and compare say the same of the same pair: difference, interval, p, star and counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from harness.analysis.finished_runs import PairOptions, compare_models
from harness.analysis.read_board import BoardOptions, read_board
from harness.pages.viewer.app import build_app
from harness.records.facts import facts_of
from tests.fakes.commands import Done
from tests.fakes.made_runs import make_run, pocket

MODELS = 6
SUITES = ("mt_bench", "alpaca_eval", "arena_hard")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    for number in range(MODELS):
        for suite in SUITES:
            make_run(folder, f"model-{number}", pocket(suite), skill=0.3 + 0.06 * number)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_board_viewer_and_compare_agree_on_every_neighbour(results: Path, suite: str) -> None:
    (table,) = read_board(results, BoardOptions(reported=False, suites=(suite,))).tables
    addresses = {path.parts[-4]: "/".join(path.parts[-4:-1]) for path in results.glob(f"runs/*/{suite}@*/*/card.json")}
    methods = set()

    with TestClient(build_app(results), base_url="http://127.0.0.1:8642") as client:
        for above, row in zip(table.rows, table.rows[1:], strict=False):
            (pair,) = compare_models([above.model, row.model], results, PairOptions([suite]))
            stated = pair.difference(table.headline)
            if stated is None:  # all answers have one length, so nothing can be fitted
                assert row.above is None
                continue
            methods.add(stated.method)
            page = client.get("/compare", params={"a": addresses[above.model], "b": addresses[row.model]}).text
            if row.above is None:
                assert stated.ci_low is None  # nothing varies
                continue
            assert row.above.difference == pytest.approx(stated.value, abs=1e-12)
            assert (row.above.ci_low, row.above.ci_high) == pytest.approx((stated.ci_low, stated.ci_high), abs=1e-12)
            assert row.above.p == pytest.approx(stated.p, abs=1e-12)
            assert row.above.significant == (stated.p <= 0.05)
            shown = f"<strong>{stated.value:+.2f}</strong> B minus A"
            assert shown in page
            assert f"[{stated.ci_low:.2f}, {stated.ci_high:.2f}], 95 %" in page
            assert (f"p {stated.p:.3f}" if stated.p >= 0.001 else "p < 0.001") in page.replace("&lt;", "<")
            assert f"the winner changes in {len(pair.flips)}." in page
            counted = re.search(r"(\d+) of (\d+) common questions", page)
            assert counted is not None
            assert int(counted[2]) == _questions(suite)

    assert suite == "alpaca_eval" or methods == {"paired"}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_every_pair_of_the_board_page_is_that_of_compare(results: Path, suite: str) -> None:
    options = BoardOptions(reported=False, suites=(suite,), pairs=True)
    board = read_board(results, options)
    (table,) = board.tables
    models = {row.run_id: row.model for row in table.rows}
    pairs = {frozenset((models[pair.run], models[pair.other])): pair for pair in board.pairs[table.anchor]}

    alone = read_board(results, replace(options, pairs=False)).tables[0].rows
    for row, same in zip(table.rows, alone, strict=True):
        assert (row.above is None) == (same.above is None)
        if row.above is not None and same.above is not None:
            assert row.above.model_dump() == pytest.approx(same.above.model_dump(), abs=1e-9)
    for first, other in combinations(models.values(), 2):
        (compared,) = compare_models([other, first], results, PairOptions([suite]))
        stated, pair = compared.difference(table.headline), pairs.get(frozenset((first, other)))
        if stated is None or stated.ci_low is None:
            assert pair is None  # nothing is fitted, or nothing varies
            continue
        assert pair is not None
        sign = 1 if models[pair.run] == first else -1
        assert sign * pair.difference.difference == pytest.approx(stated.value, abs=1e-12)
        assert pair.difference.p == pytest.approx(stated.p, abs=1e-12)
        ends = sorted((sign * pair.difference.ci_low, sign * pair.difference.ci_high))
        assert ends == pytest.approx([stated.ci_low, stated.ci_high], abs=1e-9)
        assert pair.n == stated.n
        flips = len(compared.flips)
        assert 0 < flips <= pair.won + pair.lost <= pair.n


def _questions(suite: str) -> int:
    return len(pocket(suite).prompts())


def test_against_a_baseline_too(results: Path) -> None:
    (table,) = read_board(results, BoardOptions(reported=False, suites=("arena_hard",), baseline="model-0")).tables

    for row in table.rows:
        if row.model == "model-0":
            assert row.above is None
            continue
        (pair,) = compare_models(["model-0", row.model], results, PairOptions(["arena_hard"]))
        stated = pair.difference(facts_of("arena_hard").headline)
        assert stated is not None
        assert row.above is not None
        assert (row.above.difference, row.above.p) == pytest.approx((stated.value, stated.p), abs=1e-12)


@pytest.mark.slow
def test_a_table_says_which_correction_its_p_have(results: Path, harness: Callable[..., Done]) -> None:
    """The board corrects nothing; compare corrects over the models compared with the first, and both say so."""
    folder = ("--results", str(results))

    assert "not corrected for the number of rows" in harness("leaderboard", "--suite", "mt_bench", *folder).out
    markdown = " ".join(harness("leaderboard", "--format", "md", *folder).out.split())
    assert "not corrected for the number of rows" in markdown
    three = ("model-0", "model-1", "model-2")
    shown = harness("compare", *three, "--suite", "mt_bench", *folder).out
    assert "p over all questions: corrected by Holm over 2 models" in shown
    pair = harness("compare", *three[:2], "--suite", "mt_bench", "--json", *folder).out
    assert json.loads(pair)["comparisons"][0]["differences"][0]["p_adjusted"] is None


@pytest.mark.parametrize("suite", SUITES)
def test_viewer_and_compare_agree_on_every_category(results: Path, suite: str) -> None:
    first, other = "model-0", "model-5"
    (pair,) = compare_models([first, other], results, PairOptions([suite]))
    addresses = {path.parts[-4]: "/".join(path.parts[-4:-1]) for path in results.glob(f"runs/*/{suite}@*/*/card.json")}

    with TestClient(build_app(results), base_url="http://127.0.0.1:8642") as client:
        page = client.get("/compare", params={"a": addresses[first], "b": addresses[other]}).text

    by_category = [row for row in pair.differences if row.category is not None]
    metric = pair.headline if pair.headline in {row.metric for row in by_category} else by_category[0].metric
    rows = [row for row in by_category if row.metric == metric]
    assert page.count('<th scope="row">') == len(rows) > 1
    for row in rows:
        (line,) = re.findall(rf'<tr><th scope="row">{re.escape(str(row.category))}</th>.*', page)
        p = row.p if row.p_adjusted is None else row.p_adjusted
        assert f"<strong>{row.value:+.2f}</strong>" in line
        assert row.ci_low is None or f"[{row.ci_low:.2f}, {row.ci_high:.2f}]" in line
        assert (f">{p:.3f}" if p >= 0.001 else ">&lt; 0.001") in line
    assert f"p corrected by Holm over {rows[0].tests} categories" in page
