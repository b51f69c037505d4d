"""Stage `pairs`: choose y_ws, y_wt and y_l of every preference prompt; write pairs.jsonl, dropped.jsonl, data.json.

Answers and rewards stay in their folders: another reward, source or margin can form new pairs from the same files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from harness.records.errors import ConfigError
from harness.store import dump_json, write_atomic, write_lines

from ..layout import ANSWERS, DATA, DROPPED, PAIRS, PROMPTS, REWARDS, Counts, Dropped, PreferencePair, Recipe
from ..pairs import Considered, DroppedPair, PairTally, Tally, best_by_prompt, extremes, paired, rated, read_prompts
from ..prompts import load_rows, portable_name, suite_questions
from ..spec import PairsSpec, RecipeSpec, Selection
from ..steps import Step
from ..trl_pairs import FORMS, UnreadablePairError, read_pair

HINTS = {
    "no_source_answer": "no source's answer has a reward, or all are truncated: raise `sampling: max_tokens`",
    "no_target_answer": "no answer of the target has a reward, or all are truncated: raise `sampling: max_tokens`",
    "one_target_answer": "pairs need at least two samples per prompt; raise `sampling: n`",
    "identical": "the target gives the same answer every time; raise `sampling: temperature`",
    "equal_rewards": "the reward gives all of the target's samples the same number; use a reward that tells them apart",
    "margin_low": "lower `pairs: min_margin`",
    "margin_high": "raise `pairs: max_margin`",
}
"""What to do if this is the most frequent reason."""


def pairs_steps(
    recipe: Recipe, seed: int, prompts: Step, answered: Sequence[Step], after: str | None = None
) -> dict[Selection, Step]:
    """Return the step with the pairs for each selection of answers that a variant uses.

    `answered` has the steps of the sources' answers and of their rewards in the recipe's order, then those of the
    target's answers and rewards. The pairs are for the variants that continue from `after` (None: the SFT model).
    """
    spec = recipe.spec
    every = len(spec.sources)
    answers, rewards, target = answered[:every], answered[every : 2 * every], answered[2 * every :]

    def step_of(chosen: Selection) -> Step:
        used = [position for position, source in enumerate(spec.sources) if source.name in chosen.sources]
        inputs = (
            prompts,
            *(answers[position] for position in used),
            *(rewards[position] for position in used),
            *target,
        )

        def work(folder: Path) -> Counts:
            folders = [step.folder for step in inputs[1:]]
            return make_pairs(spec.pairs, prompts.folder / PROMPTS, chosen, folders, folder)

        folder = recipe.sampled(after, seed) / "pairs" / chosen.folder(spec)
        settings = {**spec.pairs.model_dump(mode="json", exclude={"held_out"}), "sources": list(chosen.sources)}
        settings |= {} if chosen.samples is None else {"samples": chosen.samples}
        return Step("pairs", str(folder.relative_to(recipe.out)), folder, settings, work, inputs, seed=seed)

    starting = [variant for variant in recipe.variants.values() if variant.after == after]
    selections = dict.fromkeys(Selection.of(spec, variant) for variant in starting)
    # outer folders first, so that --from archives inner ones before them
    ordered = sorted(selections, key=lambda chosen: (-len(chosen.sources), chosen.samples or 0))
    return {chosen: step_of(chosen) for chosen in ordered}


def own_pairs_step(recipe: Recipe, seed: int) -> Step:
    """Return the step that reads existing pairs."""
    spec = recipe.spec
    assert spec.pairs.dataset is not None
    settings: dict[str, JsonValue] = {
        "dataset": portable_name(spec.pairs.dataset),
        "split": spec.pairs.split,
        "decontaminate": list(spec.prompts.decontaminate),
        "edition": spec.prompts.edition,
    }
    work = partial(take_pairs, spec)
    return Step("pairs", f"seed-{seed}/pairs", recipe.seed(seed) / "pairs", settings, work, seed=seed)


def take_pairs(spec: RecipeSpec, folder: Path) -> Counts:
    """Write existing pairs in our form, and those dropped with reasons. Raise ConfigError if none is left."""
    assert spec.pairs.dataset is not None
    rows = load_rows(spec.pairs.dataset, spec.pairs.split)
    questions, _ = suite_questions(spec.prompts.decontaminate, spec.prompts.edition)
    pairs: list[PreferencePair] = []
    dropped: list[Dropped] = []
    for number, row in enumerate(rows, start=1):
        try:
            pair = read_pair(row, number)
        except UnreadablePairError as error:
            dropped.append(Dropped(id=f"row-{number}", reason=error.reason))
            continue
        user_turns = (message["content"] for message in pair.messages if message["role"] == "user")
        question = next((match for text in user_turns if (match := questions.lookup(text)) is not None), None)
        if question is None:
            pairs.append(pair)
        else:
            dropped.append(Dropped(id=pair.prompt.id, reason="contaminated", detail=question))
    reasons = Counter(row.reason for row in dropped)
    if not pairs:
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "it has no rows"
        fields = ", ".join(sorted(rows[0])) if rows else "none"
        raise ConfigError(
            f"pairs: no row of {spec.pairs.dataset} can be used ({why}); expected {FORMS}; fields: {fields}"
        )
    tally = PairTally()
    for pair in pairs:
        tally.add(pair)
    write_lines(folder / PAIRS, (pair.model_dump_json() for pair in pairs))
    write_lines(folder / DROPPED, (row.model_dump_json() for row in dropped))
    write_atomic(folder / DATA, dump_json(tally.data([], Tally("chosen", frozenset())).model_dump(mode="json")))
    counts: Counts = {"rows": len(rows), "pairs": len(pairs)}
    return counts | {f"dropped_{reason}": count for reason, count in sorted(reasons.items())}


def make_pairs(spec: PairsSpec, prompts: Path, chosen: Selection, answered: Sequence[Path], folder: Path) -> Counts:
    """Write the pairs, the dropped prompts with reasons, and the data report. Each file is written atomically.

    `answered` has the folders of each chosen source's answers, of its rewards, and of the target's answers and rewards.
    Raise ConfigError if no pair is left.
    """
    sources = chosen.sources
    rows = read_prompts(prompts, "preference")
    prompt_ids = frozenset(row.prompt.id for row in rows)
    answers = [source / ANSWERS for source in answered[: len(sources)]]
    rewards = [source / REWARDS for source in answered[len(sources) : 2 * len(sources)]]
    tallies = [Tally(name, prompt_ids) for name in sources]
    seen = [tally.add for tally in tallies]
    considered = Considered(drop_truncated=spec.drop_truncated, samples=chosen.samples)
    best = best_by_prompt(answers, rewards, prompt_ids, considered, seen=seen)
    target = Tally("target", prompt_ids)
    considered = Considered(drop_truncated=spec.drop_truncated)
    samples = rated(answered[-2] / ANSWERS, answered[-1] / REWARDS, considered, seen=target.add)
    target_extremes = extremes(samples)
    outcomes = [paired(row.prompt, best.get(row.prompt.id), target_extremes.get(row.prompt.id), spec) for row in rows]
    tally = PairTally()
    for outcome in outcomes:
        tally.add(outcome)
    _check_any(tally, spec)
    write_lines(folder / PAIRS, (row.model_dump_json() for row in outcomes if isinstance(row, PreferencePair)))
    write_lines(folder / DROPPED, (row.model_dump_json() for row in outcomes if isinstance(row, DroppedPair)))
    write_atomic(folder / DATA, dump_json(tally.data(tallies, target).model_dump(mode="json")))
    return {
        "prompts": len(rows),
        "pairs": len(tally.margins),
        **{f"dropped_{reason}": count for reason, count in sorted(tally.dropped.items())},
    }


def _check_any(tally: PairTally, spec: PairsSpec) -> None:
    """Raise ConfigError with the reasons if every prompt was dropped."""
    if tally.margins:
        return
    why = ", ".join(f"{reason} {count}" for reason, count in tally.dropped.most_common())
    most = tally.dropped.most_common(1)[0][0]
    raise ConfigError(f"no pair is left from {tally.dropped.total()} prompts ({why}): {HINTS[most]}")
