"""Tell models apart that have one name: different weights behind the same label, or several runs of one model. Pure.

>>> told_apart([("ckpt", "3f2a"), ("base", "90bc"), ("ckpt", "77de")])
['ckpt (3f2a)', 'base', 'ckpt (77de)']
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from ..records import ScoreCard


def told_apart(names_and_ids: Sequence[tuple[str, str]]) -> list[str]:
    """Return the names, each with its id if it occurs more than once."""
    counts = Counter(name for name, _ in names_and_ids)
    return [f"{name} ({ident})" if counts[name] > 1 else name for name, ident in names_and_ids]


def weights_of(card: ScoreCard) -> str | None:
    """Return the digest of the weights that a card's model had; None if it is unknown, as for an endpoint."""
    identity = card.provenance.get("model")
    weights = identity.get("weights") if isinstance(identity, dict) else None
    return weights if isinstance(weights, str) else None


def row_names(cards: Sequence[ScoreCard]) -> list[str]:
    """Return the models' names for a table; cards of one name but another origin say which weights or host."""
    origins: defaultdict[str, set[str]] = defaultdict(set)
    for card in cards:
        origins[card.model].add(_origin(card))
    return [f"{card.model} ({_origin(card)})" if len(origins[card.model]) > 1 else card.model for card in cards]


def _origin(card: ScoreCard) -> str:
    weights, identity = weights_of(card), card.provenance.get("model")
    if weights is not None:
        return f"weights {weights[:8]}"
    host = identity.get("host") if isinstance(identity, dict) else None
    return f"at {host}" if isinstance(host, str) else "weights unknown"
