"""The refits of a length-controlled win rate, remembered in the cache folder: every board asks for them again.

The key is a digest of all that goes into them, so a file never holds the refits of other rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from ...records.errors import ConfigError
from ...stats.intervals import FloatArray
from ...stats.length_control import REFITS, LengthRows
from ...store.files import cache_folder
from .scores import LengthRefits, length_refits

RULES = b"refits 2"
"""To be changed if the fit changes, because files of earlier versions lie in the same folder."""


def remembered_refits(
    rows: LengthRows, gamed: Sequence[tuple[float, float, float]], *, seed: int = 0
) -> LengthRefits | None:
    """Return `length_refits`, from the cache folder if they were drawn before."""
    key = hashlib.sha256(RULES)
    for values in (rows.preference, rows.length_difference, rows.difficulty, np.array(gamed)):
        key.update(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    key.update(f"{seed} {REFITS}".encode())
    with suppress(OSError, ValueError, ConfigError):  # a cache that cannot be read only costs time
        stored: FloatArray = np.load(cache_folder() / "refits" / f"{key.hexdigest()}.npy", allow_pickle=False)
        if stored.shape == (1 + REFITS,):
            return LengthRefits(float(stored[0]), stored[1:])
    refits = length_refits(rows, gamed, seed=seed)
    if refits is not None:
        with suppress(OSError, ConfigError):
            _store(key.hexdigest(), np.append(refits.win_rate, refits.replicates))
    return refits


def _store(key: str, values: FloatArray) -> None:
    folder = cache_folder() / "refits"
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{key}.{os.getpid()}"
    with draft.open("wb") as stream:
        np.save(stream, values)
    draft.replace(folder / f"{key}.npy")
