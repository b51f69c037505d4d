"""Which recorded items are replayed: suites and kinds alike, categories in proportion, model pairs in turn. Pure."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import zip_longest

from .items import CalibrationSet, Comparison, Item


def replayable(sets: Sequence[CalibrationSet]) -> list[Item]:
    """Items that a judge can be asked about: their texts are at hand and something is recorded to compare with."""
    found: list[Item] = []
    for one in sets:
        found += [item for item in one.comparisons if item.answers and (item.people or not one.voted_only)]
        found += [item for item in one.ratings if item.answer is not None and item.recorded is not None]
    return found


def stratified(items: Sequence[Item], n: int | None, seed: int) -> list[Item]:
    """At most `n` items, in their own order; None or more than there are: all.

    Each suite and kind (comparisons, ratings) gets an equal share, what one cannot fill goes to the others; within,
    categories by size (largest remainder), and within a category the pairs of models take turns.
    """
    if n is None or n >= len(items):
        return list(items)
    groups: dict[Hashable, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.suite, isinstance(item, Comparison)].append(item)
    shares = _equal_shares({key: len(group) for key, group in groups.items()}, n)
    chosen: set[str] = set()
    for key, group in groups.items():
        categories: dict[str, list[Item]] = defaultdict(list)
        for item in group:
            categories[item.prompt.category].append(item)
        parts = _proportional({name: len(some) for name, some in categories.items()}, shares[key])
        for name, some in categories.items():
            chosen.update(item.id for item in _in_turns(some, seed)[: parts[name]])
    return [item for item in items if item.id in chosen]


def _equal_shares(sizes: Mapping[Hashable, int], n: int) -> dict[Hashable, int]:
    """The same for all, but no more than a group holds; the rest goes to those that hold more."""
    shares: dict[Hashable, int] = {}
    left = n
    for place, key in enumerate(sorted(sizes, key=lambda key: (sizes[key], str(key)))):
        shares[key] = min(sizes[key], left // (len(sizes) - place))
        left -= shares[key]
    return shares


def _proportional(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    exact = {name: n * size / sum(sizes.values()) for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (shares[name] - exact[name], name))[: n - sum(shares.values())]:
        shares[name] += 1
    return shares


def _in_turns(items: Sequence[Item], seed: int) -> list[Item]:
    """Shuffled by seed, then one of each pair of models in turn."""
    pairs: dict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.id):
        pairs[item.pair].append(item)
    for pair, some in pairs.items():
        random.Random(f"{seed}:{'/'.join(pair)}:{some[0].prompt.category}").shuffle(some)
    order = sorted(pairs)
    random.Random(seed).shuffle(order)
    return [item for row in zip_longest(*(pairs[pair] for pair in order)) for item in row if item is not None]


def counted(items: Sequence[Item]) -> dict[str, int]:
    """Suite and kind -> items, for the report's head."""
    return dict(
        Counter(f"{item.suite} {'comparisons' if isinstance(item, Comparison) else 'ratings'}" for item in items)
    )
