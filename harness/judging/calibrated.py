"""Read a judge's calibration (`calibration.json`) and cite it on a card in one sentence.

>>> shown(Score(value=0.66, ci_low=0.61, ci_high=0.71, n=412))
'0.66 [0.61, 0.71]'

`harness judge calibrate` writes it. Agreement is 0..1, kappa -1..1, win rates are percent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue, ValidationError

from ..records import Record, Score, digest
from ..records.errors import ConfigError, one_line
from ..records.facts import facts_of

log = logging.getLogger(__name__)

FOLDER = "calibrations"
"""Folder under the results, for calibrations' rows and reports and for reports put there by hand."""
BATTLES, VOTES = "verdicts.jsonl", "votes.jsonl"
"""The judge's verdicts and people's votes on the same comparisons, beside the report, for `harness elo`."""


class SuiteCalibration(Record):
    """One suite's part of a calibration."""

    retired: str
    """The judge whose recorded verdicts it is compared with."""
    items: dict[str, int]
    """Numbers of comparisons, votes and ratings."""
    scores: dict[str, Score]
    """Metric -> value with a 95 % interval over questions."""
    by_turn: dict[str, dict[str, Score]] = {}
    by_category: dict[str, dict[str, Score]] = {}
    excess_by_model: dict[str, Score] = {}
    """Points (0..1) that the judge gives a model beyond what people, or else the retired judge, give it."""
    win_rates: dict[str, dict[str, Score]] = {}
    """Model -> judge's, people's, corrected; percent."""
    board: str = ""
    """Leaderboard with which ranks are correlated."""
    failures: dict[str, int] = {}
    """Calls without a verdict, by reason."""
    findings: tuple[str, ...] = ()
    """What a user of this judge should know."""


class Calibration(Record):
    """A judge compared with people and with the judge it replaces."""

    schema_version: Literal[1] = 1
    judge: dict[str, JsonValue]
    """The judge's part of a card's protocol; a card with the same part cites this calibration."""
    suites: dict[str, SuiteCalibration]
    sample: dict[str, JsonValue]
    """n (null: all), seed, and items by suite and kind."""
    usage: dict[str, JsonValue]
    """Judgments, tokens, dollars."""
    data: dict[str, str]
    """File -> sha256 of everything it was computed from."""
    harness: str
    """Version of the harness."""

    @property
    def sha(self) -> str:
        """Return the first 12 hex characters of the digest of what was measured, without its cost."""
        return digest(self.model_dump(mode="json", exclude={"usage", "harness"}))[:12]


def read_calibration(path: Path) -> Calibration:
    """Read a calibration. Raise ConfigError if the file is not one."""
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path} is not a valid calibration: {one_line(error)}") from error


def find_calibrations(results: Path) -> list[Path]:
    """Return every report under `results/calibrations`: a replay's own, or `NAME.json` put there by hand."""
    folder = results / FOLDER
    return sorted([*folder.glob("*/*/calibration.json"), *folder.glob("*.json")])


def measured_agreement(results: Path) -> dict[str, str]:
    """Return judge -> its agreement with people, by the calibration under `results` with the most votes."""
    shares: dict[str, Score] = {}
    for path in find_calibrations(results):
        try:
            calibration = read_calibration(path)
        except ConfigError as error:
            log.warning("%s", error)
            continue
        for suite_calibration in calibration.suites.values():
            score, name = suite_calibration.scores.get("agreement_people"), str(calibration.judge["name"])
            if score is not None and score.value is not None and (name not in shares or score.n > shares[name].n):
                shares[name] = score
    return {name: shown(score) for name, score in shares.items()}


@dataclass(frozen=True)
class Citation:
    """A card's note and provenance about its judge's calibration."""

    note: str
    provenance: dict[str, JsonValue]


def cite(results: Path, suite: str, judge: Mapping[str, JsonValue]) -> Citation | None:
    """Return the citation for this suite and this very judge from the calibration with the most items, if any."""
    suite, calibrations = facts_of(suite).calibrated_by or suite, []
    for path in find_calibrations(results):
        try:
            calibration = read_calibration(path)
        except ConfigError as error:
            log.warning("%s", error)  # a broken calibration must not fail a card
            continue
        if suite in calibration.suites and calibration.judge == judge:
            calibrations.append(calibration)
    if not calibrations:
        return None
    # the digest breaks ties, so that a card does not depend on the order of files
    best = max(calibrations, key=lambda calibration: (sum(calibration.suites[suite].items.values()), calibration.sha))
    return Citation(sentence(best, suite), {"sha": best.sha, "items": dict(best.suites[suite].items)})


def sentence(calibration: Calibration, suite: str) -> str:
    """Return one sentence on a suite's part of a calibration.

    For example: judge calibrated on 250 recorded comparisons: agrees with people 0.66 [0.61, 0.71] (n = 412, kappa
    0.43), same verdict in both orders 0.81 [0.76, 0.86]
    """
    suite_calibration = calibration.suites[suite]
    kinds = [f"{n} recorded {kind}" for kind, n in suite_calibration.items.items() if n and kind != "votes"]
    clauses = []
    for name, peer in (
        ("people", "people"),
        ("people_by_ratings", "people by its ratings"),
        ("retired", suite_calibration.retired),
    ):
        score, kappa = suite_calibration.scores.get(f"agreement_{name}"), suite_calibration.scores.get(f"kappa_{name}")
        if score is not None and score.value is not None:
            clauses.append(f"agrees with {peer} {shown(score)} (n = {score.n}{_kappa(kappa)})")
    consistency = suite_calibration.scores.get("position_consistency")
    if consistency is not None and consistency.value is not None:
        clauses.append(f"same verdict in both orders {shown(consistency)}")
    summary = ", ".join(clauses) or "nothing scored"
    return f"judge calibrated on {' and '.join(kinds)}: {summary}; calibration {calibration.sha}"


def _kappa(score: Score | None) -> str:
    return "" if score is None or score.value is None else f", kappa {score.value:.2f}"


def shown(score: Score, digits: int = 2) -> str:
    """Return `0.66 [0.61, 0.71]`, or a dash if there is no value."""
    if score.value is None:
        return "-"
    if score.ci_low is None or score.ci_high is None:
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} [{score.ci_low:.{digits}f}, {score.ci_high:.{digits}f}]"
