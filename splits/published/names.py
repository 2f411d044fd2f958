"""What an imported split may be called."""

from __future__ import annotations

from functools import cache

from fsar_cache.errors import UsageError
from splits.datasets import DATASETS, GROUPS, safe
from splits.official.catalog import official_names
from splits.published.known import known_names, other_names


@cache
def published_names() -> frozenset[str]:
    """Every name of a published split, other names too."""
    return frozenset((*known_names(), *other_names()))


def require_free(name: str) -> None:
    """UsageError for a name that a split of the user's can't have: no name for a file, or taken."""
    if not safe(name):
        raise UsageError(
            f"a split can't be called {name!r}: letters, digits and . _ - only, at most 100, not led by . or -",
            hint="give it another name: --name NAME",
        )
    if name in published_names() or name in official_names() or name in GROUPS or name in DATASETS.names():
        raise UsageError(
            f"a split of yours can't be called {name!r}: that name is taken", hint="give it another: --name NAME"
        )
