"""An expensive judge sees some questions; the estimate is on its scale. Who judges which question."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import JsonValue

from harness.judging.jury import CardProtocol, Jury, audit_rows, combine, scored, turns
from harness.records import Failure, JudgeSpec, Judgment, Preference, Prompt
from harness.records.errors import ConfigError
from harness.records.judge_choice import choose_audits
from harness.running.plan import drawn
from harness.stats.combined import audited_ratio
from harness.stats.paired import ratio_estimate
from harness.suites.scoring import QuestionSums, audited_sums, sums_difference


def test_an_estimate_worked_out_by_hand() -> None:
    cheap, expensive, at = np.array([1.0, 0, 1, 0, 0, 0]), np.array([1.0, 0, 0]), np.arange(3)

    audited = audited_ratio((cheap, np.ones(6)), (expensive, np.ones(3)), at)

    # v = (2, -1, 2, -1, -1, -1) / 3, in the audit centred (1, -2, 1) / 3; u = (2, -1, -1) / 3; so the slope is
    # (1/3) / (2/3), and the estimate 1/3 - 1/2 * 1/3. Residuals (1/2, 0, -1/2), leverages (1/2, 1, 1/2): (1, 0, -1),
    # times the quantiles of t with 1 and with 5 degrees of freedom
    wider = 12.7062 / 2.5706
    assert audited is not None
    assert audited.slope == pytest.approx(0.5)
    assert audited.correlation == pytest.approx(0.5)
    assert audited.terms == pytest.approx([0.5 + 2 * wider, 0.0, 0.5 - 2 * wider, 0.0, 0.0, 0.0], rel=1e-4, abs=1e-9)
    assert audited.terms.mean() == pytest.approx(1 / 6)
    # variance of u: 1/3; squared error: sum of (terms - 1/6)^2 / (6 * 5)
    assert audited.effective == pytest.approx((1 / 3) / ((0.5 + 8 * wider**2 - 1 / 6) / 30), rel=1e-4)


def test_a_judge_that_only_is_harsher_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    cheap, at = rng.random(400), rng.permutation(400)[:60]

    audited = audited_ratio((cheap, np.ones(400)), (0.5 * cheap[at] + 0.3, np.ones(60)), at)

    plain = ratio_estimate(0.5 * cheap + 0.3, np.ones(400))
    assert audited is not None
    assert plain is not None
    estimate = ratio_estimate(audited.terms, np.ones(400))
    assert estimate is not None
    assert (estimate.value, estimate.se) == pytest.approx((plain.value, plain.se))
    # all 400 questions count; the audit's own spread stands for theirs
    assert audited.effective == pytest.approx(400, rel=0.3)


def test_a_useless_judge_does_no_harm() -> None:
    rng = np.random.default_rng(0)
    expensive, at = rng.random(60), np.arange(60)

    audited = audited_ratio((np.full(400, 0.7), np.ones(400)), (expensive, np.ones(60)), at)

    assert audited is not None
    assert (audited.slope, audited.correlation) == (0.0, 0.0)
    assert audited.terms.mean() == pytest.approx(expensive.mean())
    assert 53 < audited.effective <= 60


def test_weights_count_as_in_the_ratio_itself() -> None:
    rng = np.random.default_rng(1)
    below = rng.choice([1.0, 3.0], 300)
    above, at = below * rng.random(300), rng.permutation(300)[:80]

    audited = audited_ratio((above, below), (above[at], below[at]), at)

    assert audited is not None
    assert audited.terms.mean() == pytest.approx(above.sum() / below.sum(), abs=0.01)
    assert audited.correlation > 0.999


def test_two_audited_models_are_paired_by_their_terms() -> None:
    """What both models share, the difficulty of questions, cancels, and coverage holds at 50 of 200 questions."""
    rng = np.random.default_rng(2)
    covered = {"one": 0, "pair": 0}
    widths = []
    for _ in range(300):
        easy, ones = rng.normal(0, 1, 200), np.ones(200)
        at = rng.permutation(200)[:50]
        terms = []
        for gain in (0.0, 0.2):
            expensive = easy + gain + rng.normal(0, 0.5, 200)
            cheap = 0.6 * expensive + 2 + rng.normal(0, 0.5, 200)
            audited = audited_ratio((cheap, ones), (expensive[at], ones[:50]), at)
            assert audited is not None
            terms.append(audited.terms)
        one, pair = ratio_estimate(terms[0], ones), ratio_estimate(terms[1] - terms[0], ones)
        assert one is not None
        assert pair is not None
        covered["one"] += one.interval()[0] <= 0.0 <= one.interval()[1]
        covered["pair"] += pair.interval()[0] <= 0.2 <= pair.interval()[1]
        widths.append(pair.se / one.se)
    assert 0.91 < covered["one"] / 300 < 0.98
    assert 0.91 < covered["pair"] / 300 < 0.98
    assert np.mean(widths) < 1.2  # independent models: at least 1.4


def test_an_interval_of_a_model_that_never_wins_is_not_a_point() -> None:
    audited = audited_ratio((np.zeros(200), np.ones(200)), (np.zeros(50), np.ones(50)), np.arange(50))

    assert audited is not None
    interval = audited.interval(0.0, 1.0)
    # 52 questions with one win: mean 1/52, squared error (1/52) * (51/52) / 51 = 1/52^2, so 1/52 + 2.0076/52
    assert (interval.low, interval.se) == pytest.approx((0.0, 1 / 52))
    assert interval.high == pytest.approx(3.0076 / 52, rel=1e-4)


def test_two_audited_models_that_never_lose_are_not_certainly_equal() -> None:
    """50 audited questions: as if one was lost and one won besides, 100 sqrt(2 / (51 * 52))."""
    ids = tuple(map(str, range(500)))
    cheap = QuestionSums("win_rate", 100.0, ids, np.random.default_rng(0).random(500), np.ones(500), (0, 1))
    expensive = QuestionSums("win_rate", 100.0, ids[:50], np.ones(50), np.ones(50), (0, 1))
    audited = audited_sums(cheap, expensive)

    assert audited is not None
    estimate = sums_difference(audited.sums, audited.sums)
    assert estimate is not None
    assert estimate.se == pytest.approx(100 * (2 / (51 * 52)) ** 0.5)


def sums(ids: list[str]) -> QuestionSums:
    return QuestionSums(
        "rate", 100.0, tuple(ids), np.array([number % 2 for number in range(len(ids))], float), np.ones(len(ids))
    )


def test_an_audit_that_lost_more_than_a_tenth_of_fifty_questions_gives_no_score() -> None:
    ids = [str(number) for number in range(100)]
    whole, short = audited_sums(sums(ids), sums(ids[:45])), audited_sums(sums(ids), sums(ids[:44]))

    assert whole is not None
    assert whole.judged == 45
    assert short is None


def prompts(**sizes: int) -> list[Prompt]:
    return [
        Prompt(id=f"{category}{number}", turns=("hi",), category=category)
        for category, size in sizes.items()
        for number in range(size)
    ]


def test_an_audit_is_stratified_seeded_and_draws_each_question_as_often() -> None:
    asked = prompts(a=40, b=30, c=5, d=1)
    draws = [drawn(asked, 50, seed) for seed in range(400)]

    assert drawn(asked, 50, 7) == drawn(list(reversed(asked)), 50, 7) != drawn(asked, 50, 8)
    assert {len(draw) for draw in draws} == {50}
    for draw in draws:
        sizes = Counter(prompt_id[0] for prompt_id in draw)
        # shares of 50 / 76: 26.3, 19.7, 3.3 and 0.7
        assert sizes["a"] in (26, 27)
        assert sizes["b"] in (19, 20)
        assert sizes["c"] in (3, 4)
    shares = {prompt.id: sum(prompt.id in draw for draw in draws) / 400 for prompt in asked}
    assert min(shares.values()) > 50 / 76 - 0.1
    assert max(shares.values()) < 50 / 76 + 0.1


def test_members_of_a_cyclic_jury_take_turns_within_each_category() -> None:
    asked = prompts(a=10, b=7, c=3)
    order = turns(asked, ("x", "y", "z"))

    assert order == turns(list(reversed(asked)), ("x", "y", "z"))
    assert sorted(Counter(order.values()).values()) == [6, 7, 7]
    for category, fewest, most in (("a", 3, 4), ("b", 2, 3), ("c", 1, 1)):
        counts = Counter(member for prompt_id, member in order.items() if prompt_id[0] == category)
        assert all(fewest <= count <= most for count in counts.values())


def row(judge: str, prompt: str, value: float | None) -> Judgment:
    verdict = None if value is None else Preference(value=value)
    error = Failure(reason="parse", message="no verdict") if value is None else None
    return Judgment(prompt_id=prompt, model="m", judge=judge, template_sha="t", verdict=verdict, error=error)


def test_a_cyclic_jury_combines_nothing_and_counts_what_is_missing() -> None:
    rows = [row("a", "q", 1), row("b", "r", 0), row("a", "s", None)]

    combined = combine(rows, Jury(("a", "b"), "cyclic"))

    assert combined.judgments == tuple(rows)
    assert (combined.counts.full, combined.counts.part, combined.counts.short) == (2, 0, 1)


def test_a_stored_protocol_tells_an_audit_from_the_scored_judgments() -> None:
    judge: dict[str, JsonValue] = {"name": "a", "kind": "llm", "model": "m", "params": {}}
    audit: dict[str, JsonValue] = {"judge": {**judge, "name": "b"}, "n": 50, "questions": "0123"}
    rows = [row("a", "q", 1), row("b", "q", 0)]

    assert CardProtocol.read({"judge": judge, "audit": audit}).auditor == "b"
    assert scored(rows, {"judge": judge, "audit": audit}) == (rows[0],)
    assert audit_rows(rows, {"judge": judge, "audit": audit}) == (rows[1],)
    assert audit_rows(rows, {"judge": judge}) is None


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("b", "--audit 'b' is not JUDGE:N, e.g. gpt-5.4:100 for 100 questions"),
        ("b:many", "--audit 'b:many' is not JUDGE:N"),
        ("b:49", "49 questions are too few for an interval that covers the truth; give at least 50"),
        ("a:50", "a is mt_bench's own judge"),
        ("nobody:50", "no judge named 'nobody'"),
        ("arena_hard=b:50", "--audit names suite 'arena_hard', which is not part of this run: mt_bench"),
    ],
)
def test_a_wrong_audit_is_one_sentence(choice: str, sentence: str) -> None:
    judges = {"mt_bench": (JudgeSpec(name="a", kind="llm"),)}
    own = {"a": {"kind": "llm"}, "b": {"kind": "llm"}}

    with pytest.raises(ConfigError) as error:
        choose_audits(judges, choice, own)

    assert sentence in str(error.value)


def test_an_audit_of_one_suite_leaves_the_others() -> None:
    spec = (JudgeSpec(name="a", kind="llm"),)
    judges = {"mt_bench": spec, "arena_hard": spec}

    audits = choose_audits(judges, "arena_hard=endpoint:m@http://127.0.0.1:1/v1:60", {})

    assert list(audits) == ["arena_hard"]
    assert (audits["arena_hard"].judge.name, audits["arena_hard"].questions) == ("m", 60)
