"""Ask Arena-Hard: each answer plays two games against a baseline's, shown in both orders. One class, two versions.

>>> languages_of("de"), len(languages_of(""))
(('de',), 23)

v0.1 has 500 prompts and one baseline. v2.0 has 500 hard prompts against o3-mini and 250 of creative writing against
gemini-2.0-flash; the baselines differ, so the two categories are never pooled and the headline covers the hard prompts.
If one game is broken, v0.1 counts the other; v2.0 drops the question completely.

Source of every rule: arena-hard-auto at the pinned revisions (gen_answer.py, gen_judgment.py, show_result.py). The
score is the closed form of its Bradley-Terry fit, which it equals because every battle has the same opponent. What a
verdict's label means is in `rows.py`. How many battles a ">>" counts as is `STRONG_WEIGHT` in `../scoring.py`, because
comparisons, gate and variance weight verdicts without a suite's code.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import JsonValue

from ...records import Answer, JudgeTask, JudgeTemplate, Judgment, Order, Prompt, Sampling, Score, SuiteScores, Verdict
from ...records.errors import ConfigError, DataError
from ...records.facts import Facts
from ...records.protocols import SuiteData, SuiteOptions
from ...stats.bradley_terry import RowInterval, row_interval, v2_row_interval
from ...stats.intervals import Interval
from ...store.provenance import install_command
from ..exchange import same_baseline
from ..files import load_edition, official_files, only_template, pinned, read_json_lines, template_shas
from ..scoring import (
    PREFERENCES,
    Slot,
    Verdicts,
    categories,
    draws,
    latest_answers,
    mean_score,
    score_notes,
    slot_unit,
    verdict_weight,
    verdicts_by_slot,
)
from .facts import LANGUAGES, MULTILINGUAL, V01, V2

ORDERS: tuple[Order, ...] = get_args(Order)
"""Game 0 shows the baseline as A, game 1 shows the candidate as A."""
MAX_TOKENS = 4096  # gen_answer.py of v0.1; v2.0 leaves it to each model's endpoint
BASELINE = "gpt-4-0314"
REASK = "continue your judgment and finish by outputting a final verdict label"  # gen_judgment.py, second attempt
V01_FILES = ("arena_hard/questions", "arena_hard/baseline", "arena_hard/judge_config")
V2_CATEGORIES = ("hard_prompt", "creative_writing")
V2_FILES = (
    "arena_hard_v2/questions",
    "arena_hard_v2/judge_config",
    "arena_hard_v2/judge_prompts",
    "arena_hard_v2/baseline/hard_prompt",
    "arena_hard_v2/baseline/creative_writing",
)
CATEGORY_WORDS = {"hard_prompt": "hard prompts", "creative_writing": "creative writing"}
ONE_VERDICT = "the reference's interval needs one verdict per game, and here a game has several"
TOKENS_NOTE = "avg_tokens: by the model's own tokenizer, or as imported rows have it; published: by cl100k_base"
JUDGE_SETTINGS = "JUDGE_SETTINGS"
"""The constant of v2.0's judge_utils.py with each category's baseline and system prompt."""


Games = Sequence[Sequence[Verdict]]
"""The verdicts of each game: one, or several from repeats."""


@dataclass(frozen=True)
class ArenaVersion:
    """What the two versions do differently."""

    facts: Facts
    fields: tuple[str, str, str]
    """The judge template's fields: question, first answer, second answer."""
    interval: Callable[[Sequence[float], Sequence[float]], Interval | None]
    """Return the reference's interval, in percent, from the values and weights of games; None without games."""
    headline_category: str | None = None
    """None: all questions count."""
    second_category: str | None = None
    """A category with a metric of its own, of the same name."""
    whole_pairs: bool = False
    """Whether a game counts only if the same answers' other game has a verdict, too."""


def with_reference_interval(score: Score, interval: Interval | None) -> Score:
    """Return the score with the reference's interval; v2.0's also gives the value, the mean of its resamples."""
    value = interval.middle if isinstance(interval, RowInterval) else score.value
    return score.model_copy(update={"value": value}).with_interval(interval)


def _rows(games: Games) -> list[Verdict]:
    """Return the games as rows of the reference's interval: one verdict each, won, drawn or lost.

    Empty if a game has several verdicts (repeats) or a fraction (a jury's mean), which would count as independent rows.
    """
    verdicts = [verdict for game in games for verdict in game]
    single = all(len(game) <= 1 for game in games) and all(verdict.value in (0.0, 0.5, 1.0) for verdict in verdicts)
    return verdicts if single else []


VERSION_01 = ArenaVersion(facts=V01, fields=("question_1", "answer_1", "answer_2"), interval=row_interval)
VERSION_2 = ArenaVersion(
    facts=V2,
    fields=("QUESTION", "ANSWER_A", "ANSWER_B"),
    interval=v2_row_interval,
    headline_category="hard_prompt",
    second_category="creative_writing",
    whole_pairs=True,
)


def build(options: SuiteOptions) -> ArenaHard:
    """Build v0.1 (`fusion_harness.suites` entry point).

    Raise DataError without data, ConfigError for an unknown edition.
    """
    return ArenaHard(load_edition("arena_hard", options, load_v01))


def build_v2(options: SuiteOptions) -> ArenaHard:
    """Build v2.0 (`fusion_harness.suites` entry point).

    Raise DataError without data, ConfigError for another edition.
    """
    if options.edition != "official":
        raise ConfigError(f"{V2.name} has no edition {options.edition!r}; editions: official")
    return ArenaHard(load_v2(options), VERSION_2)


class ArenaHard:
    """The suite over any suitable data: one-turn prompts and a baseline's answer to each.

    v0.1 has one judge template with five labels, v2.0 one per category.
    """

    def __init__(self, data: SuiteData, rules: ArenaVersion = VERSION_01) -> None:
        self.name, self.headline = rules.facts.name, rules.facts.headline
        self.official_judges = rules.facts.official_judges
        self.version = data.version
        self._data = data
        self._rules = rules
        self._template = None if rules.headline_category else only_template(data)

    def protocol(self) -> dict[str, JsonValue]:
        return {
            "data": dict(self._data.files),
            "baseline": self._baselines(),
            "templates": template_shas(self._data.templates),
            "answer_settings": {"max_tokens": MAX_TOKENS, "temperature": 0.0},
        }

    @property
    def clusters(self) -> dict[str, str]:
        """Return prompt id -> cluster, of prompts that intervals count as one; v0.1 and v2.0 count each by itself."""
        return {}

    def _baselines(self) -> JsonValue:
        """Return the baseline's name, or the baseline of each category."""
        if self._rules.headline_category is None:
            return self._data.baseline_name
        prompts = [prompt for prompt in self._data.prompts if prompt.id in self._data.baseline]
        return dict(sorted({prompt.category: self._data.baseline[prompt.id].model for prompt in prompts}.items()))

    def prompts(self) -> Sequence[Prompt]:
        return self._data.prompts

    def sampling(self, prompt: Prompt) -> Sampling:
        return Sampling(temperature=0.0, max_tokens=MAX_TOKENS)

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """Return both games; none for a failed answer or without a baseline answer."""
        baseline = self._data.baseline.get(prompt.id)
        return () if answer.error is not None or baseline is None else self.games(prompt, answer, baseline)

    def against(self, answers: Mapping[str, Answer]) -> ArenaHard:
        """Return the suite with another baseline's answers."""
        if not answers or same_baseline(self._data.baseline, answers):
            return self
        suite = copy(self)
        suite._data = replace(self._data, baseline_name=next(iter(answers.values())).model, baseline=dict(answers))
        return suite

    def games(self, prompt: Prompt, answer: Answer, opponent: Answer) -> Sequence[JudgeTask]:
        """Return the games of two answers of any models, shown in both orders."""
        return [
            JudgeTask(
                prompt=prompt,
                answer=answer,
                baseline=opponent,
                order=order,
                template=self._template or self._data.templates[prompt.category],
                fields=self._fields(prompt, opponent, answer, order),
            )
            for order in ORDERS
        ]

    def _fields(self, prompt: Prompt, baseline: Answer, answer: Answer, order: Order) -> dict[str, str]:
        first, second = (baseline, answer) if order == "ab" else (answer, baseline)
        return dict(zip(self._rules.fields, (prompt.turns[0], first.turns[0], second.turns[0]), strict=True))

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """Return `arena_hard` = 100 * (wins + draws / 2) / battles, where a ">>" verdict counts as three battles.

        Also the same with the reference's interval, the second category's, and `avg_tokens`.
        """
        rules, verdicts, times = self._rules, verdicts_by_slot(judgments, answers), draws(answers)
        by_id = {prompt.id: prompt for prompt in prompts}
        parts = {name: [by_id[prompt_id] for prompt_id in ids] for name, ids in categories(prompts).items()}
        main = prompts if rules.headline_category is None else parts.get(rules.headline_category, [])
        headline = self._score(main, verdicts, times)
        by_category = {
            name: {self.headline: self._score(part, verdicts, times)}
            for name, part in parts.items()
            if len(parts) > 1 or rules.headline_category is not None
        }
        games = [game for prompt in main for _, game in self._games(prompt, verdicts, times)]
        rows = _rows(games)
        # beside our interval: readers compare with published numbers, which have the reference's
        interval = rules.interval([verdict.value for verdict in rows], [verdict_weight(verdict) for verdict in rows])
        reference = with_reference_interval(headline, interval)
        scores = {self.headline: headline, f"{self.headline}_reference": reference}
        second = by_category.get(rules.second_category or "", {}).get(self.headline)
        if second is not None and rules.second_category is not None:
            scores[rules.second_category] = second
        scores["avg_tokens"] = average_tokens(prompts, answers, times)
        return SuiteScores(scores=scores, by_category=by_category, notes=self._notes(scores))

    def _score(self, prompts: Sequence[Prompt], verdicts: Verdicts, times: int) -> Score:
        units = [
            slot_unit(self.clusters.get(prompt_id, prompt_id), game)
            for prompt in prompts
            for prompt_id, game in self._games(prompt, verdicts, times)
        ]
        return mean_score(units, 2 * times * len(prompts), scale=100.0, bounds=PREFERENCES)

    def _games(self, prompt: Prompt, verdicts: Verdicts, times: int) -> list[tuple[str, Sequence[Verdict]]]:
        """Return the games with a verdict, as (prompt id, verdicts)."""
        games = []
        for index in range(times):
            pair = [verdicts.get(Slot(prompt.id, index, order=order), ()) for order in ORDERS]
            if all(pair) or not self._rules.whole_pairs:
                games += [(prompt.id, game) for game in pair if game]
        return games

    def _notes(self, scores: Mapping[str, Score]) -> tuple[str, ...]:
        notes: tuple[str, ...] = ()
        for category, metric in (
            (self._rules.headline_category, self.headline),
            (self._rules.second_category, self._rules.second_category),
        ):
            if metric is not None and metric in scores:
                of_category = f" of {CATEGORY_WORDS[category]}" if category else ""
                notes += score_notes(scores[metric], f"games{of_category}")
        reference = scores[f"{self.headline}_reference"]
        if reference.ci_low is None and scores[self.headline].ci_low is not None:
            notes += (f"{self.headline}_reference has no interval: {ONE_VERDICT}",)
        if self._rules.headline_category is None and scores["avg_tokens"].value is not None:
            notes += (TOKENS_NOTE,)
        return notes


def average_tokens(prompts: Sequence[Prompt], answers: Sequence[Answer], times: int) -> Score:
    """Return the floor of the mean answer length in tokens, as in published tables, over answers with a token count."""
    prompt_ids = {prompt.id for prompt in prompts}
    counts = [
        answer.visible_tokens
        for (prompt_id, _), answer in latest_answers(answers).items()
        if prompt_id in prompt_ids and answer.error is None and answer.visible_tokens is not None
    ]
    unscored = len(prompt_ids) * times - len(counts)
    return Score(value=float(sum(counts) // len(counts)) if counts else None, n=len(counts), unscored=unscored)


def load_v01(options: SuiteOptions) -> SuiteData:
    """Load v0.1's pinned questions, the baseline's answers, and the judge's prompt."""
    paths = official_files(options, V01_FILES)
    prompts = tuple(
        Prompt(
            id=row["question_id"],
            turns=(row["turns"][0]["content"],),
            category=row["category"],
            cluster=row["cluster"],
        )
        for row in read_json_lines(paths["arena_hard/questions"])
    )
    baseline = {
        row["question_id"]: Answer(
            prompt_id=row["question_id"],
            model=BASELINE,
            turns=(row["choices"][0]["turns"][0]["content"],),
            finish=("stop",),
        )
        for row in read_json_lines(paths["arena_hard/baseline"])
    }
    template = read_v01_template(paths["arena_hard/judge_config"])
    return SuiteData(
        version="official-1",
        prompts=prompts,
        templates={template.name: template},
        baseline_name=BASELINE,
        baseline=baseline,
        files=pinned(V01_FILES),
    )


def read_v01_template(path: Path) -> JudgeTemplate:
    """Return the judge's prompt of v0.1's configuration. Raise DataError for another file."""
    config = yaml.safe_load(path.read_text("utf-8"))
    try:
        return JudgeTemplate(
            name=config["bench_name"],
            system=config["system_prompt"],
            user=config["prompt_template"][0],
            parser="arena_label",
            reask=REASK,
            temperature=config["temperature"],
            max_tokens=config["max_tokens"],
        )
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} is not Arena-Hard's judge configuration: {error!r}") from None


def load_v2(options: SuiteOptions) -> SuiteData:
    """Load v2.0's pinned questions, both baselines' answers and the judge's prompts; DataError for an invalid file."""
    paths = official_files(options, V2_FILES)
    settings = read_judge_settings(paths["arena_hard_v2/judge_prompts"].read_text("utf-8"))
    prompts = tuple(
        Prompt(id=row["uid"], turns=(row["prompt"],), category=row["category"])
        for row in read_json_lines(paths["arena_hard_v2/questions"])
    )
    baseline: dict[str, Answer] = {}
    for category in V2_CATEGORIES:
        prompt_ids = {prompt.id for prompt in prompts if prompt.category == category}
        rows = read_json_lines(paths[f"arena_hard_v2/baseline/{category}"])
        baseline |= {row["uid"]: read_v2_answer(row) for row in rows if row["uid"] in prompt_ids}
    return SuiteData(
        version="official-1",
        prompts=prompts,
        templates=read_v2_templates(paths["arena_hard_v2/judge_config"], settings),
        baseline=baseline,
        files=pinned(V2_FILES, options.cache_dir),
    )


def read_v2_answer(row: dict[str, Any]) -> Answer:
    try:
        text = row["messages"][-1]["content"]["answer"]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"answer {row.get('uid')!r} is not of Arena-Hard v2.0's form: {error!r}") from None
    return Answer(prompt_id=row["uid"], model=row["model"], turns=(text,), finish=("stop",))


def read_v2_templates(config: Path, settings: Mapping[str, Mapping[str, str]]) -> dict[str, JudgeTemplate]:
    """Return one template per category: the config's user text and parameters, the settings' system text."""
    settings_file = yaml.safe_load(config.read_text("utf-8"))
    try:
        return {
            category: JudgeTemplate(
                name=f"{settings_file['bench_name']}/{category}",
                system=settings[category]["system_prompt"],
                user=settings_file["prompt_template"],
                parser="arena_label_v2",
                temperature=settings_file["temperature"],
                max_tokens=settings_file["max_tokens"],
            )
            for category in V2_CATEGORIES
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{config} and {JUDGE_SETTINGS} are not Arena-Hard v2.0's judge settings: {error!r}") from None


def read_judge_settings(source: str) -> dict[str, dict[str, str]]:
    """Return category -> name -> text from the source of judge_utils.py; only string constants are read, nothing runs.

    Raise DataError if the constant is missing or contains anything but names and strings.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise DataError(f"judge_utils.py is not Python: {error}") from None
    # upstream's prompts are Python source, and importing it would run it
    texts: dict[str, str] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict() as table) if name == JUDGE_SETTINGS:
                return {key: _strings(value, texts) for key, value in _items(table)}
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                texts[name] = text
    raise DataError(f"judge_utils.py has no {JUDGE_SETTINGS}")


def _items(table: ast.expr) -> list[tuple[str, ast.expr]]:
    if not isinstance(table, ast.Dict):
        raise DataError(f"{JUDGE_SETTINGS} contains something other than texts")
    return [
        (key.value, value)
        for key, value in zip(table.keys, table.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    ]


def _strings(table: ast.expr, texts: Mapping[str, str]) -> dict[str, str]:
    strings = {}
    for key, value in _items(table):
        match value:
            case ast.Constant(value=str(text)):
                strings[key] = text
            case ast.Name(id=name) if name in texts:
                strings[key] = texts[name]
            case _:
                raise DataError(f"{JUDGE_SETTINGS}: {key!r} is neither a text nor the name of one")
    return strings


# ---------------------------------------------------------------------------------------------------------- m-ArenaHard
# These are Arena-Hard v0.1's 500 prompts in English and 22 more languages, against a baseline of the user's.
# `m_arena_hard:LANG` is one language, `m_arena_hard` all of them, with the translations of one prompt as a cluster.
# The data set has neither baseline answers nor a judge's prompt: `--baseline` names the first, and the second is
# v0.1's. Source: CohereLabs/m-ArenaHard at the pinned revision (Dang et al. 2024, arXiv 2412.04261).


RULES = ArenaVersion(facts=MULTILINGUAL, fields=VERSION_01.fields, interval=VERSION_01.interval)
COLUMNS = ("question_id", "cluster", "category", "prompt")


def languages_of(argument: str) -> tuple[str, ...]:
    """Return the languages of a suite's argument. Raise ConfigError for one that the data set lacks."""
    if not argument:
        return LANGUAGES
    if argument not in LANGUAGES:
        raise ConfigError(f"m_arena_hard has no language {argument!r}; languages: {', '.join(LANGUAGES)}")
    return (argument,)


def build_multilingual(options: SuiteOptions) -> MultilingualArenaHard:
    """Build the suite (`fusion_harness.suites` entry point).

    Raise DataError without data, ConfigError for an unknown language or edition.
    """
    if options.edition != "official":
        raise ConfigError(f"{MULTILINGUAL.name} has no edition {options.edition!r}; editions: official")
    languages = languages_of(options.argument)
    names = [f"{MULTILINGUAL.name}/{language}" for language in languages]
    paths = official_files(options, [*names, "arena_hard/judge_config"])
    template = read_v01_template(paths["arena_hard/judge_config"])
    prompts = tuple(
        prompt
        for language, name in zip(languages, names, strict=True)
        for prompt in read_language(paths[name], language, is_alone=len(languages) == 1)
    )
    files = pinned([*names, "arena_hard/judge_config"], options.cache_dir)
    data = SuiteData(version="official-1", prompts=prompts, templates={template.name: template}, files=files)
    return MultilingualArenaHard(data, options.argument)


class MultilingualArenaHard(ArenaHard):
    """The suite. Categories are languages, or of a single one the data set's own."""

    takes_baseline = True

    def __init__(self, data: SuiteData, argument: str = "") -> None:
        super().__init__(data, RULES)
        self.name = f"{MULTILINGUAL.name}:{argument}" if argument else MULTILINGUAL.name

    @property
    def needs_baseline(self) -> bool:
        return not self._data.baseline

    @property
    def clusters(self) -> dict[str, str]:
        """Return prompt id -> its question, which it shares with its translations."""
        return {prompt.id: prompt.cluster for prompt in self.prompts() if prompt.cluster is not None}

    def protocol(self) -> dict[str, JsonValue]:
        return {**super().protocol(), "judge_prompt": "Arena-Hard v0.1's, in English"}


def read_language(path: Path, language: str, *, is_alone: bool) -> Iterator[Prompt]:
    """Yield the prompts of one language; of several, ids begin with the language.

    Raise DataError for another file, or without pyarrow.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise DataError(f"m-ArenaHard's files are Parquet, which needs pyarrow: {install_command('parquet')}") from None
    try:
        rows = read_table(path, columns=list(COLUMNS)).to_pylist()
    except (ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} is not a file of m-ArenaHard: {error}") from None
    for row in rows:
        question = str(row["question_id"])
        yield Prompt(
            id=question if is_alone else f"{language}/{question}",
            turns=(str(row["prompt"]),),
            category=str(row["category"]) if is_alone else language,
            cluster=str(row["cluster"]) if is_alone else question,
        )
