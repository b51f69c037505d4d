"""Score the answers in a file: batch by length, resume by rows, score equal answers once.

This module decides which answers still need a reward and what happens to one that gets none; `scorer` scores them.
Rewards are cached in one SQLite file that recipes, seeds and processes share. A key is the digest of the reward's
identity, the prompt, the answer and its columns; no text is stored. The cache only saves time: if the file cannot be
used, a warning is logged and every answer is scored.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from harness.backends.devices import devices_of
from harness.records import Answer, Failure, digest
from harness.records.errors import ConfigError, IncompleteError
from harness.records.protocols import RewardOptions
from harness.store import JsonlRows, Row, dump_json, write_atomic
from harness.store.files import cache_folder

from ..estimate import Gpus, replica_devices
from ..layout import REWARDS, Counts, PromptRow, RewardRow, prompt_text, rows_in
from ..spec import RewardSpec
from .scorer import Outcome, RewardItem, Scorer

log = logging.getLogger(__name__)

CREATE = "CREATE TABLE IF NOT EXISTS rewards (key BLOB PRIMARY KEY, value REAL NOT NULL)"
BUSY_SECONDS = 30.0
"""How long to wait for another process's transaction; ours take milliseconds."""
REWARD = "reward.json"
"""Records what the rewards of a folder depend on: the kind and its identity."""
SAY_EVERY = 10.0
"""Seconds between two progress lines."""
DECIDING = ("chat_template", "dtype", "quantization", "max_model_len", "engine_args", "trust_remote_code")
"""Options of `serve:` that can change a reward; the others only change where and how fast it is computed."""


def reward_settings(spec: RewardSpec) -> dict[str, JsonValue]:
    """Return the part of `reward:` that decides the rewards, without local paths.

    `overlong` is not part of it: a step that finished under `fail` would be the same under `drop`, and one that
    stopped under `fail` can resume under `drop`.
    """
    serve = spec.serve.model_dump(mode="json")
    deciding: dict[str, JsonValue] = {name: serve[name] for name in DECIDING if serve[name]}
    if spec.serve.chat_template is not None:
        deciding["chat_template"] = short_name(spec.serve.chat_template)
    model = None if spec.model is None else short_name(spec.model)
    return {"kind": spec.kind, "model": model, "params": dict(spec.params), "serve": deciding}


def short_name(model: str) -> str:
    """Return the last part of a path, and the name of a Hub model or an endpoint as it is."""
    return model if model.startswith("hf:") or "://" in model else model.rstrip("/").rsplit("/", 1)[-1]


def options_of(spec: RewardSpec, log_dir: Path | None) -> RewardOptions:
    """Return the recipe's `reward:` as the options of its plug-in."""
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
    """Return a scorer in this process, in one per unit of its GPUs, or in Ray workers; the rewards are the same."""
    options = options_of(spec, log_dir)
    if not spec.workers:
        unit = reward_gpus(spec).unit
        replicas = [devices for devices in replica_devices(unit) if devices] if unit and not spec.serve.devices else []
        if len(replicas) < 2 or log_dir is None:
            return Scorer(options)
        from .workers import ReplicaScorer

        return ReplicaScorer(options, replicas)
    from .workers import RayScorer

    return RayScorer(options, workers=spec.workers, cpus=spec.worker_cpus, gpus=spec.worker_gpus)


def reward_gpus(spec: RewardSpec) -> Gpus:
    """Return how many GPUs a reward can use: none if it loads no model on ours."""
    if spec.kind in ("function", "judge") or spec.url is not None:
        return Gpus()
    return Gpus(devices_of(spec.serve), replicas=1 if spec.serve.devices else None)


def reward_alone(spec: RewardSpec) -> bool:
    """Return whether the reward chooses its GPUs itself, so that no other step may run at the same time."""
    return bool(spec.workers) or spec.serve.devices is not None


def check_reward(spec: RewardSpec, folders: Iterable[Path] = (), *, of_questions: bool = False) -> None:
    """Check the reward without loading it, with `of_questions` also whether it can score answers to suites' questions.

    Raise ConfigError, PluginError, CheckpointError or DataError if it cannot be created, and ConfigError if another
    reward scored the answers in these folders.
    """
    scorer = scorer_of(spec, None)
    if of_questions:
        scorer.check_for_questions()
    for folder in folders:
        _check_identity(folder, scorer)


def score_answers(spec: RewardSpec, *, prompts: Path, answers: Path, model: str, folder: Path) -> Counts:
    """Write a reward for every answer in a file to `rewards.jsonl` in a folder, and keep existing rewards.

    The rows name `model` as the one that answered. Failed answers get no row. Raise IncompleteError if the reward
    fails, if no answer gets one, or if an answer is too long and `overlong` is `fail`.
    """
    scorer = scorer_of(spec, folder)
    _check_identity(folder, scorer)
    write_atomic(folder / REWARD, dump_json(_facts(scorer)))
    with ExitStack() as stack:
        work = _Work(
            spec=spec,
            model=model,
            rows={row.prompt.id: row for row in rows_in(prompts, PromptRow)},
            answers=stack.enter_context(opened(JsonlRows(answers, Answer))),
            done=stack.enter_context(opened(JsonlRows(folder / REWARDS, RewardRow))),
            scorer=scorer,
            cache=stack.enter_context(RewardCache(cache_path() if scorer.cacheable else None)),
            stack=stack,
        )
        work.run()
        return work.counts()


@contextmanager
def opened(rows: JsonlRows[Row]) -> Iterator[JsonlRows[Row]]:
    """Open a file of rows for the time of a `with`."""
    rows.open()
    try:
        yield rows
    finally:
        rows.close()


def _check_identity(folder: Path, scorer: Scorer) -> None:
    """Raise ConfigError if another reward scored the folder, e.g. a function that was edited since."""
    path = folder / REWARD
    rewards = folder / REWARDS
    if not path.exists() or not rewards.exists() or not rewards.stat().st_size:
        return
    if json.loads(path.read_text("utf-8")) != _facts(scorer):
        raise ConfigError(
            f"the rewards in {folder} come from a different {scorer.kind} reward than the current one; restore it, or "
            "use --from rewards to archive them and score again"
        )


def _facts(scorer: Scorer) -> dict[str, JsonValue]:
    # as a JSON file gives them back, in which tuples are lists: they are compared with what was written earlier
    facts: dict[str, JsonValue] = json.loads(json.dumps({"kind": scorer.kind, "identity": scorer.identity()}))
    return facts


@dataclass
class _Work:
    spec: RewardSpec
    model: str
    rows: dict[str, PromptRow]
    answers: JsonlRows[Answer]
    done: JsonlRows[RewardRow]
    scorer: Scorer
    cache: RewardCache
    stack: ExitStack
    """Closes the reward if it was loaded."""
    loaded: bool = False
    seconds: float = 0.0
    """Time spent in the reward's calls."""
    start_seconds: float = 0.0
    """Time spent loading the reward."""
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
        """Return the keys of answers without a reward, sorted by length and grouped by prompt and text.

        Sorting keeps padding small, and makes the same answers form the same batches.
        """
        groups: dict[str, list[str]] = {}
        lengths: dict[str, int] = {}
        for answer in self.answers.all():
            if answer.error is not None:
                self.tally["answers_failed"] += 1
            elif not self._is_done(answer):
                group = f"{answer.prompt_id}|{answer.sha}"
                groups.setdefault(group, []).append(answer.key)
                lengths[group] = len(answer.turns[0]) + len(prompt_text(self._row(answer).prompt))
        return [groups[group] for group in sorted(groups, key=lambda group: lengths[group])]

    def _is_done(self, answer: Answer) -> bool:
        """Return whether an answer needs no call: failed calls are retried, answers that are too long are not."""
        key = f"{answer.key}|{answer.sha}"
        if self.done.succeeded(key):
            return True
        row = self.done.get(key)
        return row is not None and row.error is not None and row.error.reason == "context"

    def _row(self, answer: Answer) -> PromptRow:
        if answer.prompt_id not in self.rows:
            raise ConfigError(f"{self.answers.path}: this recipe has no prompt {answer.prompt_id!r}")
        return self.rows[answer.prompt_id]

    def _batch(self, groups: Sequence[Sequence[str]]) -> None:
        firsts = [answer for keys in groups if (answer := self.answers.get(keys[0])) is not None]
        items = [RewardItem(self._row(answer), answer.turns[0]) for answer in firsts]
        outcomes = self._outcomes(items, [_tokens(answer) for answer in firsts])
        # first keep what was scored, then stop: the next run of the command does not score it again
        for group, first, outcome in zip(groups, firsts, outcomes, strict=True):
            if not self._stops(outcome):
                self._append(group, first, outcome)
        for first, outcome in zip(firsts, outcomes, strict=True):
            if self._stops(outcome) and isinstance(outcome, Failure):
                raise IncompleteError(
                    f"the answer of {self.model!r} to prompt {first.prompt_id!r} (draw {first.index}) is too long for "
                    f"the reward model: {outcome.message}; set `overlong: drop` under `reward:` to leave such answers "
                    "out"
                )

    def _stops(self, outcome: Outcome) -> bool:
        return isinstance(outcome, Failure) and outcome.reason == "context" and self.spec.overlong == "fail"

    def _outcomes(self, items: Sequence[RewardItem], tokens: Sequence[int]) -> list[Outcome]:
        if not self.scorer.cacheable:
            return self._score(items, sum(tokens))
        keys = [reward_key(self.identity, item) for item in items]
        outcomes: dict[int, Outcome] = {
            index: value for index, key in enumerate(keys) if (value := self.cache.get(key)) is not None
        }
        lacking = [index for index in range(len(items)) if index not in outcomes]
        self.tally["from_cache"] += len(outcomes)
        read = sum(tokens[index] for index in lacking)
        # a failure is not cached, because the next call may succeed
        fresh = dict(zip(lacking, self._score([items[index] for index in lacking], read), strict=True))
        self.cache.put([(keys[index], value) for index, value in fresh.items() if isinstance(value, float)])
        outcomes |= fresh
        return [outcomes[index] for index in range(len(items))]

    def _score(self, items: Sequence[RewardItem], tokens: int) -> list[Outcome]:
        if not items:
            return []
        begin = time.monotonic()
        if not self.loaded:  # only now, because the cache may have had every answer so far
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
        value, error = (None, outcome) if isinstance(outcome, Failure) else (outcome, None)
        for key in group:
            index = int(key.rpartition("#")[2])
            facts = {"prompt_id": first.prompt_id, "model": self.model, "index": index, "answer_sha": first.sha}
            self.done.append(RewardRow.model_validate(facts | {"value": value, "error": error}))

    def counts(self) -> Counts:
        """Return counts of all answers and of this session, from which `stages.rewards.reward_time` takes the rate.

        Raise IncompleteError if no answer got a reward.
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
            **({"session_replicas": self.scorer.replicas} if self.scorer.replicas > 1 else {}),
            "start_seconds": round(self.start_seconds, 3),
        }


def _tokens(answer: Answer) -> int:
    """Return the tokens of prompt and answer as the server counted them, 0 if it did not."""
    return sum(answer.prompt_tokens) + sum(answer.completion_tokens)


def cache_path() -> Path:
    """Return `HARNESS_REWARD_CACHE`, or `rewards.sqlite` beside the official data. It may not exist yet."""
    configured = os.environ.get("HARNESS_REWARD_CACHE")
    return Path(configured) if configured else cache_folder() / "rewards.sqlite"


def reward_key(identity: Mapping[str, JsonValue], item: RewardItem) -> bytes:
    """Return the SHA-256 (32 bytes) of the reward's identity and the scored item."""
    prompt = item.row.prompt
    question = {"system": prompt.system, "prompt": prompt_text(prompt), "columns": item.row.columns}
    return bytes.fromhex(digest({"by": dict(identity), "answer": item.completion, **question}))


class RewardCache:
    """The cache, open inside a `with`. If `path` is None, nothing is cached."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
                # With a write-ahead log, processes read while another writes. NORMAL may lose the last rewards in a
                # power cut, which costs scoring them again; the file stays sound.
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.execute(CREATE)
            except (OSError, sqlite3.Error) as error:
                self._give_up(error)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def get(self, key: bytes) -> float | None:
        """Return the cached reward, or None if there is none."""
        if self._database is None:
            return None
        try:
            row = self._database.execute("SELECT value FROM rewards WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return None if row is None else float(row[0])

    def put(self, rows: Sequence[tuple[bytes, float]]) -> None:
        """Store all rows in one transaction."""
        if self._database is None or not rows:
            return
        try:
            # takes the lock at once: a transaction that asked for it later would fail instead of waiting
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR REPLACE INTO rewards VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("the reward cache %s is not used: %s", self._path, error)
        if self._database is not None:
            self._database.close()
            self._database = None
