"""The gate's verdict, its exit code and its files, on runs worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from lxml import etree
from pydantic import ValidationError

from harness.analysis.comparison import compare
from harness.analysis.gate.decision import judge_gate
from harness.analysis.gate.evidence import GateOptions, gate_runs, noise_of, promote, read_baselines, read_policy
from harness.analysis.gate.policy import Evidence, GateCheck, GateLimits, GatePolicy, GateReport, JudgeNoise, Step
from harness.analysis.gate.power import power_rows
from harness.analysis.gate.sequential import looks, order_of, replay, watched
from harness.pages.gate_text import gate_markdown, junit, summary_line
from harness.records import AnchorCheck, Judging, Preference, Score
from harness.records.errors import ConfigError
from harness.records.facts import facts_of
from harness.records.protocols import RunRows
from harness.store import read_card
from harness.suites.scoring import question_sums
from tests.fakes.commands import Done
from tests.fakes.deciding import LOSS, PROTOCOL, WIN, mixed, toy_run, write_run

CHECK = GateCheck(suite="arena_hard", margin=10.0)
POLICY = GatePolicy(checks=(CHECK,))
BASE = toy_run("base", mixed(50, 50))


def report(candidate: RunRows, policy: GatePolicy = POLICY, *, base: RunRows = BASE, **more: object) -> GateReport:
    shown = Evidence(comparison=compare(base, candidate), baseline=base.card, candidate=candidate.card)
    return judge_gate(candidate.name, base.name, policy, {"arena_hard": shown.model_copy(update=more)})


def changed(lost: int, won: int = 0) -> RunRows:
    """BASE's 100 questions, of its 50 wins `lost` lost, of its 50 losses `won` won."""
    return toy_run("cand", [LOSS] * lost + [WIN] * (50 - lost) + [WIN] * won + [LOSS] * (50 - won))


# ------------------------------------------------------------------------------------------------------------ verdicts


def test_a_model_that_answers_alike_passes() -> None:
    found = report(changed(0))

    assert (found.outcome, found.exit_code) == ("pass", 0)


def test_a_certain_drop_beyond_the_margin_fails() -> None:
    # 40 of 100 questions lost: -40 with se 100 * sqrt(0.4 * 0.6 / 99) = 4.92; -40 + 1.66 * 4.92 = -31.8 < -10
    found = report(changed(40))

    assert (found.outcome, found.exit_code) == ("fail", 1)
    assert found.checks[0].found == "worse"


def test_a_drop_that_may_be_either_is_inconclusive_and_says_what_an_equal_model_would_need() -> None:
    # 12 lost, 6 won: -6, sum of squares 18 - 0.36: se 100 * sqrt((18 - 0.36) / 99) / 10 = 4.22; -6 - 7.0 < -10
    found = report(changed(12, 6))
    (check,) = found.checks

    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    # an equal model: 2.4865 * 4.221 = 10.5 with these 100, and 100 * (10.5 / 10)^2 = 110.2 for the margin of 10
    assert check.resolvable == pytest.approx(10.5, abs=0.01)
    assert check.needed == 111
    assert "an equal model passes with them at a margin of 10.5, and at 10 with about 111" in found.reasons[0]


def test_a_proven_drop_that_may_be_within_the_margin_is_named_as_one() -> None:
    # 16 lost, 2 won: -14 with se 100 sqrt((18 - 1.96) / 99) / 10 = 4.03; upper bound -14 + 6.68 = -7.3, above -10
    (reason,) = report(changed(16, 2)).reasons

    assert "a drop is shown (p 0.00" in reason
    assert "but not whether it exceeds the margin of 10; `strict: true` in the policy fails any drop" in reason
    assert report(changed(16, 2), POLICY.model_copy(update={"strict": True})).outcome == "fail"


def test_a_check_of_few_questions_is_undecided_whatever_the_scores() -> None:
    alike, lost = (report(toy_run("cand", [row] * 19), base=toy_run("base", [WIN] * 19)) for row in (WIN, LOSS))

    for found in (alike, lost):
        assert (found.outcome, found.exit_code) == ("inconclusive", 3)
        assert "on 19 questions; under 20 (min_questions of the check) decide nothing" in found.reasons[0]
    assert report(toy_run("cand", [LOSS] * 20), base=toy_run("base", [WIN] * 20)).outcome == "fail"


def test_the_fewest_questions_of_a_check_can_be_set_and_equal_verdicts_are_still_not_certain() -> None:
    policy = GatePolicy(checks=(GateCheck(suite="arena_hard", margin=10.0, min_questions=5),))
    few, more = (
        report(toy_run("cand", [WIN] * count), policy, base=toy_run("base", [WIN] * count)) for count in (19, 40)
    )

    # 100 sqrt(2 / (20 * 21)) = 6.90 and t of 18 degrees of freedom: -11.97; of 40 questions -5.74
    assert few.outcome == "inconclusive"
    assert few.checks[0].lower == pytest.approx(-11.966, abs=0.001)
    assert (more.outcome, more.checks[0].too_few) == ("pass", None)


def test_a_margin_that_the_baseline_cannot_lose_passes_nothing() -> None:
    # the baseline wins 5 of 100, and the margin is 10: a candidate that loses all is within it
    weak, worst = toy_run("base", [WIN] * 5 + [LOSS] * 95), toy_run("cand", [LOSS] * 100)
    for verdict in (report(worst, base=weak), report(worst, base=weak, steps={"arena_hard": "safe"})):
        assert verdict.outcome == "inconclusive"
        assert "the baseline's 5.00 is within the margin of 10 of the lowest score" in verdict.reasons[0]
    assert report(toy_run("cand", [WIN] * 100), base=weak).outcome == "pass"


def test_a_strict_failure_says_that_the_policy_is_strict() -> None:
    (reason,) = report(changed(16, 2), POLICY.model_copy(update={"strict": True})).reasons

    assert "a drop that is shown (p " in reason
    assert reason.endswith("; the policy is strict, so any fails")


def test_a_sequence_cannot_decide_a_check_of_too_few_questions() -> None:
    found = report(toy_run("cand", [WIN] * 10), base=toy_run("base", [WIN] * 10), steps={"arena_hard": "safe"})

    assert found.checks[0].found == "undecided"


def hollow(run: RunRows, empty: int) -> RunRows:
    return replace(run, card=run.card.model_copy(update={"counts": {**run.card.counts, "empty": empty}}))


def test_a_candidate_with_too_many_empty_answers_fails() -> None:
    found = report(hollow(changed(0), 11))

    assert (found.outcome, found.exit_code) == ("fail", 1)
    assert found.reasons == ("arena_hard: empty 11.0% of cand, over the limit of 10.0%",)
    assert report(hollow(changed(0), 10)).outcome == "pass"


def test_a_baseline_of_empty_answers_proves_nothing() -> None:
    found = report(changed(0), base=hollow(BASE, 60))

    assert (found.outcome, found.exit_code) == ("invalid", 4)
    assert "empty_baseline 60.0% of base" in found.reasons[0]


def test_a_run_of_empty_answers_cannot_become_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="60% of the answers of base on arena_hard are empty"):
        promote(tmp_path, [(hollow(BASE, 60).card, tmp_path)], name="default", by="ann", why="best")


def test_a_suite_without_a_run_makes_the_gate_invalid() -> None:
    policy = GatePolicy(checks=(CHECK, GateCheck(suite="mt_bench", margin=0.5)))
    verdict = report(changed(0), policy)

    assert (verdict.outcome, verdict.exit_code) == ("invalid", 4)


@pytest.mark.parametrize("broken", [{"unscored": 20}, {"unjudged": 20}])
def test_too_much_unscored_or_unjudged_is_invalid_and_never_a_pass(broken: dict[str, int]) -> None:
    candidate = toy_run("cand", mixed(50, 50), **broken)  # type: ignore[arg-type]  # one keyword of toy_run

    assert report(candidate).outcome == "invalid"
    assert report(changed(0), base=toy_run("base", mixed(50, 50), **broken)).outcome == "invalid"  # type: ignore[arg-type]  # likewise


def test_an_advisory_check_with_nothing_to_compare_decides_nothing() -> None:
    policy = GatePolicy(checks=(CHECK, GateCheck(suite="arena_hard", category="gone", tier="advisory", margin=1.0)))

    found = report(changed(0), policy)

    assert found.outcome == "pass"
    assert [check.found for check in found.checks] == ["safe", "missing"]


def test_too_many_truncated_answers_fail_the_candidate_alone() -> None:
    cut = toy_run("cand", mixed(50, 50), truncated=12)
    lenient = POLICY.model_copy(update={"limits": GateLimits(truncated=None, truncated_rise=None)})

    assert report(cut).outcome == "fail"
    assert report(cut, lenient).outcome == "pass"
    assert report(changed(0), base=toy_run("base", mixed(50, 50), truncated=12)).outcome == "pass"


def test_a_judge_that_moved_is_never_a_pass() -> None:
    moved = AnchorCheck(
        anchors="a", n=40, unscored=0, unit="percent", shift=Score(value=9.0, n=40), p=0.001, drifted=True
    )
    still = moved.model_copy(update={"drifted": False})
    for check, outcome in ((moved, "inconclusive"), (still, "pass")):
        candidate = toy_run("cand", mixed(50, 50), judging=Judging(anchors={"toy": check}))
        drift = gate_runs_of(candidate)
        assert drift.outcome == outcome


def gate_runs_of(candidate: RunRows) -> GateReport:
    from harness.analysis.gate.evidence import drift_of

    return report(candidate, drifted=drift_of(BASE.card, candidate.card))


def test_holm_within_a_tier_needs_more_of_one_bad_metric_among_many() -> None:
    # One check at p just under 5 %: alone it is worse; with three others of its tier it is not.
    candidate = changed(17)  # -17, se 3.78; -17 + 10 = -7: t = -1.85, p = 0.033
    alone = report(candidate)
    others = [GateCheck(suite="arena_hard", category=name, margin=10.0) for name in ("x", "y", "z")]
    rows = compare(BASE, candidate).differences
    same = compare(BASE, changed(0)).differences[0]
    comparison = compare(BASE, candidate).model_copy(
        update={"differences": (*rows, *(same.model_copy(update={"category": one.category}) for one in others))}
    )
    together = report(candidate, GatePolicy(checks=(CHECK, *others)), comparison=comparison)

    assert alone.checks[0].p_worse == pytest.approx(0.033, abs=0.002)
    assert alone.outcome == "fail"
    assert together.checks[0].p_worse == pytest.approx(4 * (alone.checks[0].p_worse or 0))
    assert together.outcome == "inconclusive"


def test_tiers_decide_what_a_drop_does() -> None:
    bad, unsure = changed(40), changed(12, 6)
    of = {
        tier: GatePolicy(checks=(GateCheck(suite="arena_hard", margin=10.0, tier=tier),))
        for tier in ("critical", "supporting", "advisory")
    }

    assert [report(bad, policy).outcome for policy in of.values()] == ["fail", "fail", "pass"]
    assert [report(unsure, policy).outcome for policy in of.values()] == ["inconclusive", "pass", "pass"]


def test_a_floor_holds_whatever_the_baseline() -> None:
    def floor(value: float) -> GatePolicy:
        return GatePolicy(checks=(GateCheck(suite="arena_hard", margin=10.0, floor=value),))

    # 50 with se 5.03: bounds at 95 %, one-sided, about 41.6 and 58.4
    assert report(changed(0), floor(40)).outcome == "pass"
    assert report(changed(0), floor(50)).outcome == "inconclusive"
    assert report(changed(0), floor(60)).outcome == "fail"


def test_a_floor_is_tested_by_the_rule_of_the_cards_interval() -> None:
    """19 of 20 won: 90.9 with one lost and one won besides, less 1.721 (t of 21) times 100 sqrt(0.95 * 0.05 / 19)."""
    base, near = (toy_run(name, [WIN] * 19 + [LOSS]) for name in ("base", "cand"))

    def above(floor: float) -> bool | None:
        policy = GatePolicy(checks=(GateCheck(suite="arena_hard", margin=50.0, floor=floor),))
        return report(near, policy, base=base).checks[0].above_floor

    assert above(82) is True
    assert above(84) is None  # the bound around 95 itself is 86.4


@pytest.mark.parametrize("margin", [50.0, 300.0])
def test_no_margin_as_wide_as_the_scale_passes(margin: float) -> None:
    policy = GatePolicy(checks=(GateCheck(suite="arena_hard", margin=margin),))

    found = report(changed(0), policy)

    assert found.outcome == "inconclusive"
    assert f"is within the margin of {margin:g} of the lowest score" in found.reasons[0]


def test_strict_fails_a_small_but_certain_drop() -> None:
    base = toy_run("base", mixed(500, 0))
    slightly = toy_run("cand", mixed(490, 10))

    assert report(slightly, base=base).outcome == "pass"
    assert report(slightly, POLICY.model_copy(update={"strict": True}), base=base).outcome == "fail"


def test_a_sequence_that_stays_open_says_why_the_bound_of_one_test_is_not_enough() -> None:
    (reason,) = report(changed(0), steps={"arena_hard": "open"}).reasons

    assert reason.endswith("100 questions after the earlier looks, though one test of as many would rule it out")


def test_a_sequence_decides_where_judging_could_stop_early() -> None:
    def steps(step: Step) -> str:
        return report(changed(0), steps={"arena_hard": step}).outcome

    assert [steps("safe"), steps("open"), steps("worse")] == ["pass", "inconclusive", "fail"]


def test_repeats_are_planned_from_what_these_repeats_have_left_of_the_judges_noise() -> None:
    # variance of the 100 differences: 100^2 * 17.64 / 99 = 1781.8, of which 8 repeats have left 6400 / 8 = 800;
    # n (margin / 2.4865)^2 = 1617.4; 6400 / (1617.4 - 981.8) = 10.07 -> 11 judgments
    noise = {"arena_hard": JudgeNoise(single=6400.0, included=800.0)}
    found = report(changed(12, 6), noise=noise)

    assert found.checks[0].repeats == 11
    assert "or 11 judgments of each question" in found.reasons[0]


def test_the_judges_noise_is_the_variance_between_repeats_divided_by_their_number() -> None:
    run = toy_run("base", mixed(50, 0))
    answers = run.answers
    rows = [
        row.model_copy(update={"repeat": repeat, "verdict": Preference(value=float((repeat + number // 2) % 2))})
        for number, row in enumerate(run.judgments)
        for repeat in range(4)
    ]
    repeated = RunRows(run.name, run.card, answers, tuple(rows))

    noise = noise_of(repeated, repeated)["arena_hard"]

    assert noise.included == pytest.approx(noise.single / 4)
    assert noise.single > 0
    assert noise_of(run, repeated) == {}


# --------------------------------------------------------------------------------------------------------------- files

XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
 <xs:complexType name="note"><xs:simpleContent><xs:extension base="xs:string">
   <xs:attribute name="type" type="xs:string"/><xs:attribute name="message" type="xs:string"/>
 </xs:extension></xs:simpleContent></xs:complexType>
 <xs:element name="testcase"><xs:complexType>
   <xs:choice minOccurs="0" maxOccurs="unbounded">
     <xs:element name="skipped" type="note"/><xs:element name="error" type="note"/>
     <xs:element name="failure" type="note"/><xs:element name="system-out" type="xs:string"/>
   </xs:choice>
   <xs:attribute name="name" type="xs:string" use="required"/><xs:attribute name="classname" type="xs:string"/>
   <xs:attribute name="time" type="xs:decimal"/>
 </xs:complexType></xs:element>
 <xs:element name="testsuite"><xs:complexType>
   <xs:sequence><xs:element ref="testcase" minOccurs="0" maxOccurs="unbounded"/></xs:sequence>
   <xs:attribute name="name" type="xs:string" use="required"/>
   <xs:attribute name="tests" type="xs:nonNegativeInteger" use="required"/>
   <xs:attribute name="failures" type="xs:nonNegativeInteger"/>
   <xs:attribute name="errors" type="xs:nonNegativeInteger"/>
   <xs:attribute name="skipped" type="xs:nonNegativeInteger"/><xs:attribute name="time" type="xs:decimal"/>
 </xs:complexType></xs:element>
 <xs:element name="testsuites"><xs:complexType>
   <xs:sequence><xs:element ref="testsuite" minOccurs="0" maxOccurs="unbounded"/></xs:sequence>
 </xs:complexType></xs:element>
</xs:schema>"""
"""The elements and attributes of Jenkins' junit-10.xsd that a report of ours may use, in words of our own."""


def test_junit_is_valid_and_counts_add_up() -> None:
    schema = etree.XMLSchema(etree.fromstring(XSD))
    for candidate in (changed(0), changed(40), changed(12, 6), toy_run("cand", mixed(50, 50), unscored=50)):
        tree = etree.fromstring(junit([report(candidate)]).encode())
        schema.assertValid(tree)
        (suite,) = tree
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(name)) == len(suite.findall(f"testcase/{tag}"))
        assert int(suite.get("tests")) == len(suite)


def test_hostile_names_stay_text_in_every_file() -> None:
    evil = '</testcase><script>alert("1")</script>\x1b[31m\x00\ufffe|`#'
    found = report(RunRows(evil, changed(0).card, changed(0).answers, changed(0).judgments))

    tree = etree.fromstring(junit([found]).encode())
    assert not tree.xpath("//script")
    assert "<script>" not in gate_markdown(found)
    assert "\x1b" not in summary_line(found) + gate_markdown(found) + junit([found])


def test_the_last_line_says_it_all(harness: Callable[..., Done], tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_run(results, BASE)
    write_run(results, changed(40))
    words = ("gate", "--candidate", "cand", "--baseline", "base", "--policy", "gate.yaml")
    (tmp_path / "gate.yaml").write_text("checks: [{suite: arena_hard, margin: 10}]\n")
    (tmp_path / "out.md").write_bytes("# Étape".encode("latin-1"))

    done = harness(*words, "--junit", "out.xml", "--json-file", "out.json", "--summary", "out.md")

    assert done.code == 1, done.err
    assert done.out.splitlines()[-1].startswith("FAIL (exit 1): cand against base: arena_hard")
    assert GateReport.model_validate_json((tmp_path / "out.json").read_text()).outcome == "fail"
    assert (tmp_path / "out.md").read_bytes().startswith(b"# \xc9tape\n# Gate: FAIL")
    assert etree.parse(tmp_path / "out.xml").getroot().tag == "testsuites"


def test_a_policy_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text("checks: [{suite: arena_hard, margin: 5, marign: 3}]\n")

    with pytest.raises(ConfigError, match="unknown key"):
        read_policy(path)
    with pytest.raises(ValidationError, match="two checks of arena_hard headline"):
        GatePolicy(checks=(CHECK, CHECK))


@pytest.mark.parametrize("text", ["", "# margins\n", "{}\n"])
def test_an_empty_policy_is_refused_instead_of_passing_by_the_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "gate.yaml").write_text(text)

    with pytest.raises(ConfigError, match=r"gate\.yaml is empty: .* or drop --policy for the defaults"):
        read_policy(tmp_path / "gate.yaml")


def test_runs_measured_otherwise_are_refused_unless_forced(tmp_path: Path) -> None:
    write_run(tmp_path, BASE)
    write_run(tmp_path, toy_run("cand", mixed(50, 50), protocol={**PROTOCOL, "judge": "other"}))

    with pytest.raises(ConfigError, match="not measured the same way: judge"):
        gate_runs("cand", "base", POLICY, GateOptions(tmp_path))
    assert gate_runs("cand", "base", POLICY, GateOptions(tmp_path, force=True)).outcome == "pass"


def test_a_run_is_no_baseline_of_itself(tmp_path: Path) -> None:
    write_run(tmp_path, BASE)

    with pytest.raises(ConfigError, match="the same run"):
        gate_runs("base", "base", POLICY, GateOptions(tmp_path))


# ------------------------------------------------------------------------------------------------------------ baselines


def test_promoting_one_of_several_runs_lists_what_tells_them_apart(
    harness: Callable[..., Done], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    whole = write_run(results, BASE)
    part = write_run(results, toy_run("base", mixed(5, 5), protocol=PROTOCOL | {"limit": {"n": 10, "seed": 0}}), "part")

    done = harness("gate", "promote", "base", "--why", "release")

    assert done.code == 2
    for described in (f"{whole.relative_to(tmp_path)} (judge toy, all questions)", "part (judge toy, limit 10)"):
        assert described in done.err
    assert harness("gate", "promote", str(part), "--why", "release").code == 0


def test_a_baseline_is_promoted_with_who_when_and_why(tmp_path: Path) -> None:
    first, second = write_run(tmp_path, BASE), write_run(tmp_path, changed(0))

    promote(tmp_path, [(read_card(first / "card.json"), first)], name="default", by="ann", why="first")
    promote(tmp_path, [(read_card(second / "card.json"), second)], name="default", by="bob", why="better")

    found = read_baselines(tmp_path)
    now = found.baselines["default"]["arena_hard@toy-1"]
    assert (now.model, now.by, now.why) == ("cand", "bob", "better")
    assert [(one.model, one.by) for one in found.history] == [("base", "ann")]
    assert yaml.safe_load((tmp_path / "baselines.yaml").read_text())["baselines"]["default"]
    assert gate_runs("base", None, POLICY, GateOptions(tmp_path)).baseline == "cand"
    assert not list(tmp_path.glob(".baselines.yaml.*"))  # written whole


def test_a_baseline_without_a_reason_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, BASE)

    with pytest.raises(ConfigError, match="--why"):
        promote(tmp_path, [(BASE.card, folder)], name="default", by="ann", why=" ")
    assert not (tmp_path / "baselines.yaml").exists()


# ------------------------------------------------------------------------------------------------ early stop and power


def test_the_order_of_questions_is_the_seeds_alone() -> None:
    ids = [f"q{number}" for number in range(50)]

    assert order_of(ids, "arena_hard", 1) == order_of(ids[::-1], "arena_hard", 1)
    assert order_of(ids, "arena_hard", 1) != order_of(ids, "arena_hard", 2)
    assert looks(100) == [40, 60, 80, 100]
    assert looks(30) == [30]


def test_a_clear_drop_stops_early_and_a_close_call_does_not() -> None:
    base = toy_run("base", mixed(300, 100))
    broken, close = toy_run("bad", mixed(0, 400)), toy_run("close", [LOSS] * 60 + [WIN] * 260 + [LOSS] * 80)
    ready = watched([CHECK], base.card, base)

    assert isinstance(ready, list)
    stop = replay(ready, base, broken, policy=POLICY, peers={"critical": 1}, seed=0)
    assert (stop.questions, stop.steps) == (40, {"arena_hard": "worse"})
    late = replay(ready, base, close, policy=POLICY, peers={"critical": 1}, seed=0)
    assert (late.questions, late.steps) == (400, {"arena_hard": "open"})


def test_the_last_look_decides_with_fewer_questions_than_an_early_one_needs() -> None:
    base, broken = toy_run("base", mixed(30, 0)), toy_run("bad", mixed(0, 30))
    ready = watched([CHECK], base.card, base)

    assert isinstance(ready, list)
    stop = replay(ready, base, broken, policy=POLICY, peers={"critical": 1}, seed=0)
    assert (stop.questions, stop.steps) == (30, {"arena_hard": "worse"})


def test_a_fitted_metric_or_a_category_has_no_early_stop() -> None:
    assert watched([GateCheck(suite="arena_hard", category="x", margin=1.0)], BASE.card, BASE) == (
        "arena_hard is of one category"
    )
    fitted = watched([GateCheck(suite="arena_hard", metric="lc_win_rate", margin=1.0)], BASE.card, BASE)
    assert fitted == "lc_win_rate is fitted to all verdicts; use metric: arena_hard"


def test_known_drops_are_missed_and_alarmed_at_their_nominal_rates() -> None:
    rule = facts_of("arena_hard").rules[0]
    runs = [toy_run("a", mixed(200, 100, 100)), toy_run("b", mixed(180, 120, 100))]
    pair = tuple(question_sums(rule, run.answers, run.judgments) for run in runs)

    rows = power_rows([(pair[0], pair[1])], 8.0, GatePolicy(), trials=300)

    assert [row.drop for row in rows] == [0.0, 4.0, 8.0, 16.0]
    assert rows[0].failed <= 0.02  # no drop: almost never a false alarm
    assert 0.01 <= rows[2].passed <= 0.10  # just the margin: 5 % pass, 5 % fail
    assert 0.01 <= rows[2].failed <= 0.10
    assert rows[3].passed <= 0.01
    assert all(row.passed + row.failed + row.inconclusive == pytest.approx(1) for row in rows)
