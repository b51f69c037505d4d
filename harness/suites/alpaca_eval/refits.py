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
from ...stats.length_control import REFITS, LengthControl, LengthRows, control_length_replicates
from ...store.files import cache_folder

RULES = b"refits 1"
"""To be changed if the fit changes, because files of earlier versions lie in the same folder."""


def remembered_replicates(
    rows: LengthRows, gamed: Sequence[tuple[float, float, float]], fit: LengthControl, *, seed: int = 0
) -> FloatArray | None:
    """Return `control_length_replicates`, from the cache folder if they were drawn before."""
    key = hashlib.sha256(RULES)
    for values in (rows.preference, rows.length_difference, rows.difficulty, np.array(gamed), fit.coefficients):
        key.update(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    key.update(f"{fit.strength!r} {seed} {REFITS}".encode())
    with suppress(OSError, ValueError, ConfigError):  # a cache that cannot be read only costs time
        drawn: FloatArray = np.load(cache_folder() / "refits" / f"{key.hexdigest()}.npy", allow_pickle=False)
        if drawn.shape == (REFITS,):
            return drawn
    replicates = control_length_replicates(rows, gamed, fit, seed=seed)
    if replicates is not None:
        with suppress(OSError, ConfigError):
            _store(key.hexdigest(), replicates)
    return replicates


def _store(key: str, replicates: FloatArray) -> None:
    folder = cache_folder() / "refits"
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{key}.{os.getpid()}"
    with draft.open("wb") as stream:
        np.save(stream, replicates)
    draft.replace(folder / f"{key}.npy")
