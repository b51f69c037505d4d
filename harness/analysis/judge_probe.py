"""Probe a judge with questions whose better answer is known: does it find it, in both orders, whatever the wording?

>>> [probe.name for probe in PROBES]
['planted winner', 'swapped order', 'padded answer', 'paraphrased template']

The questions are in probe_questions.yaml and easy on purpose. A judge that fails here should not be used; one that
passes is not thereby good: `harness judge calibrate` measures that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from ..judging.cache import ReplyCache, cache_path
from ..judging.calls import CallOptions
from ..judging.jury import judge_identities, judge_protocol
from ..records import Answer, JudgeSpec, JudgeTask, JudgeTemplate, Judgment, Prompt, Sampling, SuiteScores, digest
from ..records.documents import parse_yaml, read_text
from ..records.errors import one_line
from ..records.protocols import Checking, Judge
from ..running.pipeline import ProgressCallback, SuiteRun, evaluate
from ..running.plan import SuitePlan, connect_judges, load_judge
from ..store import RunStore
from .judge_replay import no_backend

FOLDER = "probes"
"""Folder under the results with the rows of probes."""
QUESTIONS = Path(__file__).with_name("probe_questions.yaml")
FORM = "[[A]] if assistant A is better, [[B]] if assistant B is better, [[C]] for a tie"
TEMPLATE = JudgeTemplate(
    name="probe",
    system=(
        "Act as an impartial judge and compare the answers of two AI assistants to the question below. Correctness "
        "comes first; neither the order of the answers nor their length may influence you. Explain briefly, then end "
        f"with your verdict in exactly this form: {FORM}."
    ),
    user="Question:\n{question}\n\nAnswer of assistant A:\n{answer_a}\n\nAnswer of assistant B:\n{answer_b}",
    parser="pair_letter",
)
PARAPHRASE = JudgeTemplate(
    name="probe-paraphrase",
    system=(
        "You grade two candidate replies to one request. Say which reply serves the person who asked better, above all "
        "by being right. Ignore which reply comes first and how long it is. Give a short reason. Finish with one of "
        f"these marks: {FORM}."
    ),
    user="[Request]\n{question}\n\n[Reply A]\n{answer_a}\n\n[Reply B]\n{answer_b}",
    parser="pair_letter",
)
PADDING = (
    " This is an interesting question, and there are many things that could be said about it. It is always worthwhile "
    "to think about such a question with care, as questions like this one come up again and again. To sum up, the "
    "above is the answer to the question that was asked, and it answers the question."
)
"""Words that add nothing."""


@dataclass(frozen=True)
class Probe:
    """One property of a judge."""

    name: str
    asks: str
    passes: float
    """Smallest share of questions, 0..1, with which a judge passes: one or two of sixteen may go wrong."""


PROBES = (
    Probe("planted winner", "the right answer wins in both orders", 0.85),
    Probe("swapped order", "the same verdict in both orders", 0.85),
    Probe("padded answer", "words that say nothing do not make the same answer win in both orders", 0.85),
    Probe("paraphrased template", "the same verdict under another wording of the judge's prompt", 0.85),
)


@dataclass(frozen=True)
class ProbeResult:
    """How many questions came out as they should. Those without verdicts are left out and counted."""

    probe: Probe
    right: int
    judged: int
    unscored: int

    @property
    def passed(self) -> bool:
        """Return whether the judge passes. Without a single verdict it does not."""
        return self.judged > 0 and self.right / self.judged >= self.probe.passes

    def as_dict(self) -> dict[str, JsonValue]:
        return {
            "probe": self.probe.name,
            "right": self.right,
            "judged": self.judged,
            "unscored": self.unscored,
            "passed": self.passed,
        }


class ProbeSuite:
    """The probes as a suite: one prompt per question and game, whose answer is judged against a baseline twice.

    Games: `plain` (right against wrong), `padded` (padded right against right), `paraphrased` (plain, another wording).
    """

    name = "probe"
    version = "1"
    headline = "planted winner"

    def __init__(self) -> None:
        rows = parse_yaml(read_text(QUESTIONS, "YAML"), QUESTIONS)
        assert isinstance(rows, list)
        self._rows: dict[str, dict[str, str]] = {str(row["id"]): row for row in rows}
        self.questions = tuple(self._rows)

    def protocol(self) -> dict[str, JsonValue]:
        return {"questions": digest(list(self._rows.values())), "templates": [TEMPLATE.sha, PARAPHRASE.sha]}

    def prompts(self) -> Sequence[Prompt]:
        return [
            Prompt(id=f"{game}/{name}", turns=(row["question"],), category=game)
            for name, row in self._rows.items()
            for game in ("plain", "padded", "paraphrased")
        ]

    def answers(self) -> list[Answer]:
        """Return the answer under judgment of each prompt."""
        return [_answer(prompt, self._texts(prompt)[0]) for prompt in self.prompts()]

    def _texts(self, prompt: Prompt) -> tuple[str, str]:
        row = self._rows[prompt.id.partition("/")[2]]
        right = row["right"]
        return (right + PADDING, right) if prompt.category == "padded" else (right, row["wrong"])

    def sampling(self, prompt: Prompt) -> Sampling:
        return Sampling(max_tokens=1)  # nothing is generated: the answers are in the file of questions

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        template = PARAPHRASE if prompt.category == "paraphrased" else TEMPLATE
        candidate, baseline = self._texts(prompt)
        sides = {"ab": (baseline, candidate), "ba": (candidate, baseline)}
        return [
            JudgeTask(
                prompt=prompt,
                answer=answer,
                baseline=_answer(prompt, baseline),
                order="ab" if order == "ab" else "ba",
                template=template,
                fields={"question": prompt.turns[0], "answer_a": first, "answer_b": second},
            )
            for order, (first, second) in sides.items()
        ]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        return SuiteScores(scores={})


def _answer(prompt: Prompt, text: str) -> Answer:
    return Answer(prompt_id=prompt.id, model="probe", turns=(text,), finish=("stop",))


async def probe_judge(
    judge: Judge, store: RunStore, *, cache: bool = True, on_progress: ProgressCallback = lambda _: None
) -> None:
    """Ask what the store lacks. Raise ConfigError if the judge compares no answers, IncompleteError if it is down."""
    suite = ProbeSuite()
    calls = CallOptions(cache=ReplyCache(cache_path() if cache else None))
    connect_judges([judge], calls, store.folder)
    for answer in suite.answers():
        if not store.answers.succeeded(answer.key):
            store.answers.append(answer)
    plan = SuitePlan(suite, (judge,), tuple(suite.prompts()), suite.sampling, store.folder)
    async with calls.cache:
        await evaluate([SuiteRun(plan, store)], no_backend, concurrency=1, on_progress=on_progress)


def loaded_for_probe(spec: JudgeSpec) -> Judge:
    """Return the judge. Raise ConfigError if it cannot compare two answers."""
    judge, suite = load_judge(spec), ProbeSuite()
    # asked before the first call, so that a judge of single answers is rejected without costs
    if isinstance(judge, Checking):
        for task in suite.tasks(suite.prompts()[0], suite.answers()[0]):
            judge.check(task)
    return judge


def probe_manifest(judge: Judge) -> dict[str, JsonValue]:
    """Return the fields that must be equal to resume a probe."""
    protocol = judge_protocol(judge_identities([judge]), "mean")
    return {"schema_version": 1, "judge": protocol, "judge_url": judge.spec.url, "probe": ProbeSuite().protocol()}


def probe_results(judgments: Sequence[Judgment]) -> list[ProbeResult]:
    """Return one result per probe in the order of PROBES."""
    games: dict[str, dict[str, float]] = defaultdict(dict)
    for row in judgments:
        if row.verdict is not None and row.order is not None:
            games[row.prompt_id][row.order] = row.verdict.value
    questions = ProbeSuite().questions
    both = {name: pair for name, pair in games.items() if len(pair) == 2}
    outcomes = (  # in the order of PROBES
        {name: _wins(both[key]) for name in questions if (key := f"plain/{name}") in both},
        {
            name: _side(both[key]["ab"]) == _side(both[key]["ba"])
            for name in questions
            if (key := f"plain/{name}") in both
        },
        {name: not _wins(both[key]) for name in questions if (key := f"padded/{name}") in both},
        {
            name: _wins(both[first]) == _wins(both[second])
            for name in questions
            if (first := f"plain/{name}") in both and (second := f"paraphrased/{name}") in both
        },
    )
    return [
        ProbeResult(probe, sum(outcome.values()), len(outcome), len(questions) - len(outcome))
        for probe, outcome in zip(PROBES, outcomes, strict=True)
    ]


def lost_calls(judgments: Sequence[Judgment]) -> str | None:
    """Return a sentence about the calls without a verdict, with the first one's problem, or None if there are none."""
    problems = [row.error for row in judgments if row.error is not None]
    if not problems:
        return None
    counts = ", ".join(f"{reason} {count}" for reason, count in Counter(each.reason for each in problems).most_common())
    return f"{len(problems)} of {len(judgments)} calls gave no verdict ({counts}), e.g. {one_line(problems[0].message)}"


def _wins(pair: Mapping[str, float]) -> bool:
    return all(value > 0.5 for value in pair.values())


def _side(value: float) -> int:
    return (value > 0.5) - (value < 0.5)
