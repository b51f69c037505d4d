"""Answers in a file -> rewards in a file: batched by length, resumed by rows, equal answers scored once.

It owns which answers still need a reward and what becomes of one that gets none. What scores them is `scorer`.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from harness.errors import ConfigError, IncompleteError
from harness.records import Answer, Failure
from harness.rewards import RewardOptions
from harness.store import JsonlRows, Row, dump_json, write_atomic

from ..pairs.best import REWARDS
from ..records import PromptRow, RewardRow
from ..spec import RewardSpec
from ..steps import Counts
from .cache import RewardCache, cache_path, reward_key
from .scorer import Outcome, RewardItem, Scorer

log = logging.getLogger(__name__)

REWARD = "reward.json"
"""What the rewards of a folder depend on: the kind and its identity."""
SAY_EVERY = 10.0
"""Seconds between lines that say how far it is."""
DECIDING = ("chat_template", "dtype", "quantization", "max_model_len", "engine_args", "trust_remote_code")
"""Options of `serve:` that can change a reward; the others say where and how fast it is made."""


def reward_settings(spec: RewardSpec) -> dict[str, JsonValue]:
    """What of `reward:` decides the rewards, without this machine's folders. `overlong` is not among them: a step that
    finished under `fail` is the same under `drop`, and one that stopped goes on."""
    serve = spec.serve.model_dump(mode="json")
    deciding: dict[str, JsonValue] = {name: serve[name] for name in DECIDING if serve[name]}
    if spec.serve.chat_template is not None:
        deciding["chat_template"] = short_name(spec.serve.chat_template)
    model = None if spec.model is None else short_name(spec.model)
    return {"kind": spec.kind, "model": model, "params": dict(spec.params), "serve": deciding}


def short_name(model: str) -> str:
    """A folder's or file's last part; a Hub's or an endpoint's name as it is."""
    return model if model.startswith("hf:") or "://" in model else model.rstrip("/").rsplit("/", 1)[-1]


def options_of(spec: RewardSpec, log_dir: Path | None) -> RewardOptions:
    return RewardOptions(
        kind=spec.kind,
        model=spec.model,
        url=spec.url,
        key_env=spec.key_env,
        batch_size=spec.batch_size,
        serve=spec.serve.model_dump(mode="json", exclude_defaults=True),
        params=dict(spec.params),
        log_dir=log_dir,
    )


def scorer_of(spec: RewardSpec, log_dir: Path | None) -> Scorer:
    """What scores: this process, or as many Ray workers as the recipe says; the rewards are the same."""
    options = options_of(spec, log_dir)
    if not spec.workers:
        return Scorer(options)
    from .on_ray import RayScorer

    return RayScorer(options, workers=spec.workers, cpus=spec.worker_cpus, gpus=spec.worker_gpus)


def check_reward(spec: RewardSpec, folders: Iterable[Path] = ()) -> None:
    """Raises ConfigError, PluginError, CheckpointError or DataError for a reward that cannot be made, or that is not
    the one which scored what is in these folders; loads none."""
    scorer = scorer_of(spec, None)
    for folder in folders:
        _check_identity(folder, scorer)


def score_answers(spec: RewardSpec, *, prompts: Path, answers: Path, model: str, folder: Path) -> Counts:
    """Rewards of every answer in a file -> `rewards.jsonl` in a folder; what is there already stays.

    `model`: who answered, for the rows. Failed answers get no row. Raises IncompleteError where the reward fails, where
    no answer gets one, or where one is too long and `overlong` says `fail`.
    """
    scorer = scorer_of(spec, folder)
    _check_identity(folder, scorer)
    write_atomic(folder / REWARD, dump_json(_facts(scorer)))
    with ExitStack() as stack:
        work = _Work(
            spec=spec,
            model=model,
            rows=read_rows(prompts),
            answers=stack.enter_context(opened(JsonlRows(answers, Answer))),
            done=stack.enter_context(opened(JsonlRows(folder / REWARDS, RewardRow))),
            scorer=scorer,
            cache=stack.enter_context(RewardCache(cache_path() if scorer.cacheable else None)),
            stack=stack,
        )
        work.run()
        return work.counts()


def read_rows(prompts: Path) -> dict[str, PromptRow]:
    """Prompt id -> its row."""
    with prompts.open("rb") as file:
        rows = [PromptRow.model_validate_json(line) for line in file]
    return {row.prompt.id: row for row in rows}


@contextmanager
def opened(rows: JsonlRows[Row]) -> Iterator[JsonlRows[Row]]:
    rows.open()
    try:
        yield rows
    finally:
        rows.close()


def _check_identity(folder: Path, scorer: Scorer) -> None:
    """Raises ConfigError where the folder's rewards are of another reward, e.g. of a function edited since."""
    path = folder / REWARD
    if not path.exists() or not _has_rows(folder / REWARDS):
        return
    if json.loads(path.read_text("utf-8")) != _facts(scorer):
        raise ConfigError(
            f"the rewards in {folder} are of another {scorer.kind} reward than the one there now; restore it, or use "
            "--from rewards to set them aside and score anew"
        )


def _facts(scorer: Scorer) -> dict[str, JsonValue]:
    """As they are read back from JSON."""
    facts: dict[str, JsonValue] = json.loads(json.dumps({"kind": scorer.kind, "identity": scorer.identity()}))
    return facts


def _has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@dataclass
class _Work:
    """One file's scoring while it lasts."""

    spec: RewardSpec
    model: str
    rows: dict[str, PromptRow]
    answers: JsonlRows[Answer]
    done: JsonlRows[RewardRow]
    scorer: Scorer
    cache: RewardCache
    stack: ExitStack
    """Holds the reward once it is loaded."""
    loaded: bool = False
    seconds: float = 0.0
    """In the reward's calls."""
    start_seconds: float = 0.0
    """Until it was loaded."""
    tally: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.identity = self.scorer.identity()

    def run(self) -> None:
        groups = self._groups()
        reported = time.monotonic()
        for start in range(0, len(groups), self.scorer.at_once):
            self._batch(groups[start : start + self.scorer.at_once])
            if time.monotonic() - reported > SAY_EVERY:
                reported = time.monotonic()
                log.info("%s: %d of %d answers rewarded", self.model, len(self.done), len(self.answers))

    def _groups(self) -> list[list[str]]:
        """Answers without a reward, those of the same text to the same prompt together, by length: what is batched
        together needs little padding, and the same answers make the same batches."""
        groups: dict[str, list[str]] = {}
        lengths: dict[str, int] = {}
        for answer in self.answers.all():
            if answer.error is not None:
                self.tally["answers_failed"] += 1
            elif not self._is_done(answer):
                group = f"{answer.prompt_id}|{answer.sha}"
                groups.setdefault(group, []).append(answer.key)
                lengths[group] = len(answer.turns[0]) + len(self._row(answer).prompt.turns[0])
        return [groups[group] for group in sorted(groups, key=lambda group: lengths[group])]

    def _is_done(self, answer: Answer) -> bool:
        """A failed call is asked again, an answer that is too long stays so."""
        key = f"{answer.key}|{answer.sha}"
        if self.done.succeeded(key):
            return True
        row = self.done.get(key)
        return row is not None and row.error is not None and row.error.reason == "context"

    def _row(self, answer: Answer) -> PromptRow:
        if answer.prompt_id not in self.rows:
            raise ConfigError(f"{self.answers.path}: there is no prompt {answer.prompt_id!r} in this recipe")
        return self.rows[answer.prompt_id]

    def _batch(self, groups: Sequence[Sequence[str]]) -> None:
        firsts = [answer for keys in groups if (answer := self.answers.get(keys[0])) is not None]
        items = [RewardItem(self._row(answer), answer.turns[0]) for answer in firsts]
        outcomes = self._outcomes(items, [_tokens(answer) for answer in firsts])
        for group, first, outcome in zip(groups, firsts, outcomes, strict=True):
            if not self._stops(outcome):
                self._append(group, first, outcome)
        for first, outcome in zip(firsts, outcomes, strict=True):
            if self._stops(outcome) and isinstance(outcome, Failure):
                raise IncompleteError(
                    f"the answer of {self.model!r} to prompt {first.prompt_id!r} (draw {first.index}) is too long for "
                    f"the reward model: {outcome.message}; with `overlong: drop` under `reward:` such answers are left "
                    "out"
                )

    def _stops(self, outcome: Outcome) -> bool:
        return isinstance(outcome, Failure) and outcome.reason == "context" and self.spec.overlong == "fail"

    def _outcomes(self, items: Sequence[RewardItem], tokens: Sequence[int]) -> list[Outcome]:
        """Of the cache, or scored and put there."""
        if not self.scorer.cacheable:
            return self._score(items, sum(tokens))
        keys = [reward_key(self.identity, item) for item in items]
        outcomes: dict[int, Outcome] = {
            index: value for index, key in enumerate(keys) if (value := self.cache.get(key)) is not None
        }
        lacking = [index for index in range(len(items)) if index not in outcomes]
        self.tally["from_cache"] += len(outcomes)
        read = sum(tokens[index] for index in lacking)
        fresh = dict(zip(lacking, self._score([items[index] for index in lacking], read), strict=True))
        self.cache.put([(keys[index], value) for index, value in fresh.items() if isinstance(value, float)])
        outcomes |= fresh
        return [outcomes[index] for index in range(len(items))]

    def _score(self, items: Sequence[RewardItem], tokens: int) -> list[Outcome]:
        if not items:
            return []
        begin = time.monotonic()
        if not self.loaded:
            self.stack.enter_context(self.scorer)
            self.loaded = True
            self.start_seconds = time.monotonic() - begin
            begin = time.monotonic()
        outcomes = self.scorer.score(items)
        self.seconds += time.monotonic() - begin
        self.tally["scored"] += len(items)
        self.tally["tokens"] += tokens
        return outcomes

    def _append(self, group: Sequence[str], first: Answer, outcome: Outcome) -> None:
        """A row for each answer of this text."""
        value, error = (None, outcome) if isinstance(outcome, Failure) else (outcome, None)
        for key in group:
            index = int(key.rpartition("#")[2])
            facts = {"prompt_id": first.prompt_id, "model": self.model, "index": index, "answer_sha": first.sha}
            self.done.append(RewardRow.model_validate(facts | {"value": value, "error": error}))

    def counts(self) -> Counts:
        """Of all answers, and of this session's work: `session_tokens / session_seconds` is a rate for --dry-run.

        Raises IncompleteError where no answer got a reward.
        """
        errors = Counter[str](row.error.reason for row in self.done.all() if row.error is not None)
        rewarded = self.done.count_succeeded
        if not rewarded:
            failed = {"answers_failed": self.tally["answers_failed"], **errors}
            why = ", ".join(f"{count} {name}" for name, count in failed.items() if count)
            raise IncompleteError(f"no answer of {self.model!r} got a reward ({why or 'there are no answers'})")
        return {
            "answers": len(self.answers),
            "rewarded": rewarded,
            "answers_failed": self.tally["answers_failed"],
            "overlong": errors.pop("context", 0),
            "reward_failed": errors.total(),
            "session_scored": self.tally["scored"],
            "session_from_cache": self.tally["from_cache"],
            "session_tokens": self.tally["tokens"],
            "session_seconds": round(self.seconds, 3),
            "start_seconds": round(self.start_seconds, 3),
        }


def _tokens(answer: Answer) -> int:
    """Prompt and answer, as the server that gave it counted; 0 where it did not."""
    return sum(answer.prompt_tokens) + sum(answer.completion_tokens)
