"""Choose which recorded items are replayed: equal shares per suite and kind, proportional per category. Pure."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import zip_longest

from .items import CalibrationSet, Item, RecordedComparison


def replayable(sets: Sequence[CalibrationSet]) -> list[Item]:
    """Return the items a judge can be called for: their texts are available and there is a recorded verdict to
    compare."""
    items: list[Item] = []
    for calibration_set in sets:
        items += [
            item
            for item in calibration_set.comparisons
            if item.answers and (item.people or not calibration_set.voted_only)
        ]
        items += [item for item in calibration_set.ratings if item.answer is not None and item.recorded is not None]
    return items


def stratified(items: Sequence[Item], n: int | None, seed: int) -> list[Item]:
    """Return at most `n` items in their original order; all of them if `n` is None or large enough.

    Each suite and kind (comparisons, ratings) gets an equal share, and what one cannot fill goes to the others. Within
    a share, categories are proportional to their size (largest remainder); within a category, model pairs take turns.
    """
    if n is None or n >= len(items):
        return list(items)
    groups: dict[Hashable, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.suite, isinstance(item, RecordedComparison)].append(item)
    shares = _equal_shares({key: len(group) for key, group in groups.items()}, n)
    chosen: set[str] = set()
    for key, group in groups.items():
        categories: dict[str, list[Item]] = defaultdict(list)
        for item in group:
            categories[item.prompt.category].append(item)
        parts = _proportional({name: len(members) for name, members in categories.items()}, shares[key])
        for name, members in categories.items():
            chosen.update(item.id for item in _in_turns(members, seed)[: parts[name]])
    return [item for item in items if item.id in chosen]


def _equal_shares(sizes: Mapping[Hashable, int], n: int) -> dict[Hashable, int]:
    """Return equal shares, capped by each group's size; what is left goes to larger groups."""
    shares: dict[Hashable, int] = {}
    left = n
    for rank, key in enumerate(sorted(sizes, key=lambda key: (sizes[key], str(key)))):
        shares[key] = min(sizes[key], left // (len(sizes) - rank))
        left -= shares[key]
    return shares


def _proportional(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    exact = {name: n * size / sum(sizes.values()) for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (shares[name] - exact[name], name))[: n - sum(shares.values())]:
        shares[name] += 1
    return shares


def _in_turns(items: Sequence[Item], seed: int) -> list[Item]:
    """Shuffle by seed, then take one item of each model pair in turn."""
    pairs: dict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.id):
        pairs[item.pair].append(item)
    for pair, members in pairs.items():
        random.Random(f"{seed}:{'/'.join(pair)}:{members[0].prompt.category}").shuffle(members)
    order = sorted(pairs)
    random.Random(seed).shuffle(order)
    return [item for row in zip_longest(*(pairs[pair] for pair in order)) for item in row if item is not None]


def counted(items: Sequence[Item]) -> dict[str, int]:
    """Return suite and kind -> number of items, for the head of the report."""
    return dict(
        Counter(
            f"{item.suite} {'comparisons' if isinstance(item, RecordedComparison) else 'ratings'}" for item in items
        )
    )
