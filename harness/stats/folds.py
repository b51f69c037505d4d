"""Assign rows to cross-validation folds, as part of AlpacaEval's protocol: the published numbers depend on it.

GroupKFold distributes equally large groups round-robin over the folds, in the reverse order of an argsort of equal
keys. Up to scikit-learn 1.8 that argsort was not stable: the published board was made with numpy's scalar introsort,
whose permutation of equal keys depends on their number alone. From 1.9 on the order is the stable one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FoldOrder = Literal["published", "stable"]
SMALL = 15  # numpy npysort SMALL_QUICKSORT is 16: ranges of up to 16 keys are insertion-sorted


def assign_folds(rows: int, folds: int = 5, order: FoldOrder = "published") -> NDArray[np.int64]:
    """Return the fold number of each of `rows` rows, shape (rows,), values 0..folds-1."""
    ranks = introsort_of_equal_keys(rows) if order == "published" else np.arange(rows)
    assigned = np.empty(rows, dtype=np.int64)
    assigned[ranks[::-1]] = np.arange(rows) % folds
    return assigned


def introsort_of_equal_keys(rows: int) -> NDArray[np.int64]:
    """Return the permutation numpy's scalar quicksort argsort makes of `rows` equal keys.

    Every comparison is "not less", so each partition step moves the pivot out of the way, swaps position by position
    from both ends until they meet, and puts the pivot back; short ranges are left alone.
    """
    order = list(range(rows))
    pending = [(0, rows - 1)] if rows else []
    while pending:
        low, high = pending.pop()
        if high - low > SMALL:
            meeting = _partition_equal(order, low, high)
            pending += [(low, meeting - 1), (meeting + 1, high)]
    return np.array(order, dtype=np.int64)


def _partition_equal(order: list[int], low: int, high: int) -> int:
    """Do one partition step over order[low..high] and return the pivot's final position."""
    middle = low + (high - low) // 2
    left, right = low, high - 1
    order[middle], order[right] = order[right], order[middle]
    while True:
        left += 1
        right -= 1
        if left >= right:
            break
        order[left], order[right] = order[right], order[left]
    order[left], order[high - 1] = order[high - 1], order[left]
    return left
