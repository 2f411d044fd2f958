"""Memory that ran out, on the machine or its accelerator, as an error with its exit code and a way on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fsar_cache.errors import SpaceError

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "std::bad_alloc")
"""What errors that are no MemoryError say when memory ran out; torch's CPU allocator raises plain RuntimeErrors."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the machine's or the accelerator's memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


@contextmanager
def enough_memory(what: str, hint: str) -> Iterator[None]:
    """Turn an allocation that fails inside the block into a SpaceError: memory ran out while `what`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0][:200]
        raise SpaceError(f"memory ran out while {what}{f': {reason}' if reason else ''}", hint=hint) from error
