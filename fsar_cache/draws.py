"""Randomness without state: every draw is a pure function of a key and its indices.

Two forms. `generator(*key)` is a numpy Generator for draws of one thing (an episode, a clip's view). `bits(key, *index)`
gives 64 random bits per element of broadcast integer arrays at once, for sampling thousands of episodes in one go:
bits[i, j] depends on (key, i, j) only, so a batch of episodes equals the same episodes drawn one at a time.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsar_cache.canonical import canonical

U64 = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key_of(*parts: Any) -> int:
    """A 64-bit key for plain data (strings, numbers, tuples)."""
    return int.from_bytes(hashlib.sha256(canonical(list(parts)).encode()).digest()[:8], "little")


def generator(*parts: Any) -> np.random.Generator:
    """A numpy Generator that depends on `parts` alone."""
    words = hashlib.sha256(canonical(list(parts)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(words[:16], "little")))


def _mix(z: U64) -> U64:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words that passes BigCrush."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def bits(key: int, *index: Any) -> U64:
    """64 random bits for every element of the broadcast of the integer arrays `index`; uint64, shape of the broadcast."""
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(key, np.uint64).reshape(1) + _GOLDEN)
        for array in index:
            state = _mix((state ^ np.asarray(array).astype(np.uint64)) + _GOLDEN)
    shape = np.broadcast_shapes(*(np.shape(a) for a in index)) if index else ()
    return state.reshape(shape)


def integers(random: U64, high: Any) -> NDArray[np.int64]:
    """Integers in [0, high) from random 64-bit words; `high` broadcasts. The bias is below high / 2**64."""
    return (random % np.asarray(high).astype(np.uint64)).astype(np.int64)
