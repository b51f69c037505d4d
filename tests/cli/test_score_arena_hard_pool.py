"""`harness score --format arena_hard --pool`: one Bradley-Terry fit over several baselines, and style on a pool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from tests.cli.test_score_arena_hard import score, write

Row = dict[str, Any]


def games(model: str, baseline: str, won: int, lost: int) -> list[Row]:
    """v2.0 rows of two equal games each."""
    labels = ["B>A"] * won + ["A>B"] * lost
    swapped = {"B>A": "A>B", "A>B": "B>A"}
    return [v2(model, baseline, f"q{number}", label, swapped[label]) for number, label in enumerate(labels)]


def v2(model: str, baseline: str, question: str, *labels: str) -> Row:
    found = [{"score": label, "judgment": {"answer": f"[[{label}]]"}, "prompt": []} for label in labels]
    named = {"uid": question, "category": "hard_prompt", "judge": "j", "model": model, "baseline": baseline}
    return named | {"games": found}


def pool_rates(path: Path, *words: str) -> dict[str, Any]:
    return {card["model"]: card["scores"]["arena_hard_pool"] for card in score(path, "--pool", *words)}


def chain(tmp_path: Path) -> Path:
    """`far` beats `near` 3 : 2, `near` beats `base` 3 : 1, `m` draws with `base`."""
    rows = [*games("near", "base", 75, 25), *games("far", "near", 60, 40), *games("m", "base", 50, 50)]
    return write(tmp_path / "pool.jsonl", rows)


def test_a_model_is_rated_against_the_anchor_through_its_own_baseline(tmp_path: Path) -> None:
    found = pool_rates(chain(tmp_path))

    assert found["near"]["value"] == pytest.approx(75.0)
    assert found["far"]["value"] == pytest.approx(100 * 4.5 / 5.5)  # odds 3/2 times 3
    assert found["m"]["value"] == pytest.approx(50.0)
    assert all(one["ci_low"] < one["value"] < one["ci_high"] for one in found.values())
    assert (found["far"]["n"], found["far"]["unscored"]) == (200, 800)


def test_another_anchor_can_be_named(tmp_path: Path) -> None:
    found = pool_rates(chain(tmp_path), "--baseline", "near", "--no-intervals")

    assert found["far"]["value"] == pytest.approx(60.0)
    assert found["near"]["value"] == pytest.approx(50.0)
    assert found["m"]["value"] == pytest.approx(25.0)


def test_a_model_that_no_game_ties_to_the_anchor_has_no_rate(tmp_path: Path) -> None:
    rows = [*games("m", "base", 50, 50), *games("other", "island", 20, 20)]

    cards = score(write(tmp_path / "pool.jsonl", rows), "--pool")

    assert [card["scores"]["arena_hard_pool"]["value"] for card in cards] == [pytest.approx(50.0), None]
    assert any("ties these to the anchor: island, other" in note for note in cards[1]["notes"])


@pytest.mark.slow
def test_against_one_baseline_the_pool_is_the_closed_form(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = ["A>>B", "A>B", "A=B", "B>A", "B>>A"]
    rows = [v2(name, "base", f"q{number}", *rng.choice(labels, 2)) for name in "abc" for number in range(200)]

    for card in score(write(tmp_path / "pool.jsonl", rows), "--pool"):
        one, pooled = card["scores"]["arena_hard"], card["scores"]["arena_hard_pool"]
        assert pooled["value"] == pytest.approx(one["value"], abs=1e-6)
        assert pooled["ci_low"] == pytest.approx(one["ci_low"], abs=0.25 * one["se"])  # 400 draws against none
        assert pooled["se"] == pytest.approx(one["se"], rel=0.15)


def test_a_pool_is_of_one_judge(tmp_path: Path) -> None:
    rows = [*games("m", "base", 5, 5), *(row | {"judge": "k"} for row in games("m", "base", 5, 5))]
    path = write(tmp_path / "pool.jsonl", rows)

    done = CliRunner().invoke(app, ["score", str(path), "--format", "arena_hard", "--pool"])

    assert done.exit_code != 0
    assert "one judge" in str(done.exception)


# ------------------------------------------------------------------------------------------------------------- style


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight models of known strength against one baseline, won with known coefficients for length and markdown."""
    folder, rng = tmp_path_factory.mktemp("styled"), np.random.default_rng(11)
    strengths = np.linspace(-1.0, 1.0, 8)
    means = rng.uniform(300, 900, 8)
    questions = [f"q{number}" for number in range(500)]
    base = [answer("base", one, counts(rng, 600)) for one in questions]
    rows, answers = [], [*base]
    for place, strength in enumerate(strengths):
        own = [answer(f"m{place}", one, counts(rng, means[place])) for one in questions]
        answers += own
        chances = 1 / (1 + np.exp(-(strength + 1.5 * lengths(own, base))))
        for one, chance in zip(questions, chances, strict=True):
            first, second = rng.random(2) < chance
            rows.append(v2(f"m{place}", "base", one, "B>A" if first else "A>B", "A>B" if second else "B>A"))
    write(folder / "judgments.jsonl", rows)
    write(folder / "answers.jsonl", answers)
    return folder


def counts(rng: np.random.Generator, mean: float) -> list[int]:
    """Tokens, headers, list items, bold spans: lengths vary within a model, or they would tell the models apart."""
    return [int(rng.lognormal(np.log(mean), 0.6)), *rng.poisson((4, 9, 6)).tolist()]


def answer(model: str, question: str, found: Sequence[int]) -> Row:
    names = ("token_len", "header_count", "list_count", "bold_count")
    values = [found[0], *({"all": one} for one in found[1:])]
    return {"uid": question, "model": model, "messages": [], "metadata": dict(zip(names, values, strict=True))}


def lengths(own: list[Row], base: list[Row]) -> np.ndarray[Any, np.dtype[np.float64]]:
    ours = np.array([row["metadata"]["token_len"] for row in own], dtype=np.float64)
    theirs = np.array([row["metadata"]["token_len"] for row in base], dtype=np.float64)
    found: np.ndarray[Any, np.dtype[np.float64]] = (ours - theirs) / (ours + theirs)
    return found


def test_style_control_finds_the_strengths_behind_the_lengths(styled: Path) -> None:
    """v2.0's length feature is the planted one, so its control gives back the planted strengths; plain rates do not.

    Rates at length zero: features are centred over the pool, so strengths differ from the planted ones by a common
    shift of the baseline; differences between models are free of it.
    """
    words = (styled / "judgments.jsonl", "--answers", styled / "answers.jsonl", "--no-intervals")
    cards = score(*words, "--style-control", "length")

    controlled = logits([card["scores"]["arena_hard_style"]["value"] for card in cards])
    plain = logits([card["scores"]["arena_hard"]["value"] for card in cards])
    planted = np.linspace(-1.0, 1.0, 8)
    assert np.max(np.abs(centred(controlled) - planted)) < 0.2  # two standard errors of 1,000 games
    assert np.max(np.abs(centred(plain) - planted)) > 0.25


def logits(rates: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    found: np.ndarray[Any, np.dtype[np.float64]] = np.log(np.array(rates) / (100.0 - np.array(rates)))
    return found


def centred(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    found: np.ndarray[Any, np.dtype[np.float64]] = values - values.mean()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("elements", ["v2", "length", "markdown"])
def test_v2_style_scores_are_those_of_torchs_converged_fit(styled: Path, elements: str) -> None:
    """The reference's own procedure on the same rows: one-hot columns beside z-scored features, summed cross entropy,
    torch's LBFGS. Run on to convergence it gives ours; stopped after its 50 steps it is up to a point off."""
    torch = pytest.importorskip("torch")
    cards = score(
        styled / "judgments.jsonl", "--answers", styled / "answers.jsonl", "--no-intervals", "--style-control", elements
    )
    ours = np.array([card["scores"]["arena_hard_style"]["value"] for card in cards])
    design, won = _design(styled, elements)

    def fitted(*, rate: float, steps: int, kind: Any) -> Any:
        x, y = torch.tensor(design, dtype=kind), torch.tensor(won, dtype=kind)
        at = torch.full((design.shape[1],), 0.5, dtype=kind, requires_grad=True)
        optimizer = torch.optim.LBFGS([at], lr=rate, max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-12)

        def closure() -> Any:
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ at, y, reduction="sum")
            loss.backward()
            return loss

        optimizer.step(closure)
        found = at.detach().double().numpy()
        return 100 / (1 + np.exp(found[8] - found[:8]))

    assert np.max(np.abs(ours - fitted(rate=1.0, steps=2000, kind=torch.float64))) < 0.01
    assert np.max(np.abs(ours - fitted(rate=0.1, steps=50, kind=torch.float32))) < 1.0


def _design(folder: Path, elements: str) -> tuple[Any, Any]:
    """Rows as upstream's: +1 for the model, -1 for the baseline, then the features of the chosen elements."""
    styles = {}
    for line in (folder / "answers.jsonl").read_text().split("\n")[:-1]:
        row = json.loads(line)
        found = row["metadata"]
        styles[row["model"], row["uid"]] = [
            found["token_len"],
            *(found[f"{name}_count"]["all"] for name in ("header", "list", "bold")),
        ]
    rows, won = [], []
    for line in (folder / "judgments.jsonl").read_text().split("\n")[:-1]:
        row = json.loads(line)
        ours, base = (np.array(styles[name, row["uid"]], float) for name in (row["model"], "base"))
        density, other = ours[1:] / (ours[0] + 1), base[1:] / (base[0] + 1)
        features = [(ours[0] - base[0]) / (ours[0] + base[0]), *((density - other) / (density + other + 1))]
        for place, game in enumerate(row["games"]):
            hot = np.zeros(9)
            hot[int(row["model"][1:])], hot[8] = 1, -1
            rows.append([*hot, *features])
            won.append(float((game["score"] == "B>A") == (place == 0)))
    table = np.array(rows)
    part = table[:, 9:]
    part = (part - part.mean(axis=0)) / part.std(axis=0, ddof=1)
    kept = {"v2": slice(0, 4), "length": slice(0, 1), "markdown": slice(1, 4)}[elements]
    return np.column_stack((table[:, :9], part[:, kept])), np.array(won)
