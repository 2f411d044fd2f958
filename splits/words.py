"""Words in messages and names: lists kept short, and text that can be shown and stored."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def listed(names: Sequence[str], limit: int = 8) -> str:
    """The first `limit` names, separated by commas, and the number of the others."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def is_text(name: str) -> bool:
    """Whether `name` has no control character and no byte that isn't Unicode text."""
    return not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
