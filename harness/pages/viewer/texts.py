"""A suite's questions and baseline answers for the viewer: from the package or the cache, never from the network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from ...records import Answer, JudgeTask, Prompt, ScoreCard
from ...records.documents import SUITE_COPY
from ...records.errors import HarnessError
from ...records.protocols import OwnRunner, Suite, SuiteOptions, installed, load_plugin
from ...running.plan import load_suite, with_baseline_of
from ...store.official import cached_path, files_of


@dataclass(frozen=True)
class SuiteTexts:
    """`suite` None: the questions are not available, and `note` states how to get them."""

    suite: Suite | None = None
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    note: str | None = None

    def of_run(self, folder: Path) -> SuiteTexts:
        """Return the texts with the baseline of an imported run that has one of its own."""
        return self if self.suite is None else replace(self, suite=with_baseline_of(self.suite, folder))

    def tasks(self, prompt_id: str, answer: Answer) -> Sequence[JudgeTask]:
        """Return the judge tasks of an answer, which contain the baseline's answer."""
        prompt = self.prompts.get(prompt_id)
        return () if self.suite is None or prompt is None else self.suite.tasks(prompt, answer)


def suite_texts(card: ScoreCard, folder: Path | None = None) -> SuiteTexts:
    """Return the questions of the card's suite and edition; a user's own suite is in its run's folder."""
    if folder is not None and (folder / SUITE_COPY).is_file():
        return _load_own(card.suite, folder, (folder / SUITE_COPY).stat().st_mtime_ns)
    edition = "pocket" if card.suite_version.startswith("pocket") else "official"
    return _load(card.suite, card.suite_version, edition)


@lru_cache(maxsize=32)
def _load_own(name: str, folder: Path, changed: int) -> SuiteTexts:
    """`changed`: the definition's time, so that another file is read anew."""
    try:
        suite = load_suite(name, SuiteOptions(), folder)
    except HarnessError as error:
        return SuiteTexts(note=str(error))
    assert not isinstance(suite, OwnRunner), "only judged suites are defined by a file"
    return SuiteTexts(suite, {prompt.id: prompt for prompt in suite.prompts()})


@lru_cache(maxsize=32)
def _load(name: str, version: str, edition: str) -> SuiteTexts:
    plugin, _, argument = name.partition(":")
    if plugin not in installed("suites"):
        return SuiteTexts(note=f"no suite named {name!r} is installed here, so its questions are not shown")
    try:
        # loading would download: a page must not wait for the network, nor reveal what is read
        if edition == "official" and not _is_local(plugin):
            return SuiteTexts(note=f"the questions are not on this machine; to get them: harness data pull {plugin}")
        suite = load_plugin("suites", plugin)(SuiteOptions(edition=edition, argument=argument))
        if not hasattr(suite, "prompts") or suite.version != version:
            return SuiteTexts(note=f"the questions of version {version} are not available, so they are not shown")
        return SuiteTexts(suite, {prompt.id: prompt for prompt in suite.prompts()})
    except HarnessError as error:
        return SuiteTexts(note=str(error))


def _is_local(suite: str) -> bool:
    mirror = os.environ.get("HARNESS_MIRROR", "")
    if mirror and "://" not in mirror:
        return True
    files = files_of([suite])
    return bool(files) and all(cached_path(file).is_file() for file in files)
