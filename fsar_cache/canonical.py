"""One canonical text for plain data, and hashes of it: the base of fingerprints and split hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` as dicts, lists, strings, numbers, booleans and None; dataclasses become dicts, tuples lists, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    raise TypeError(f"not plain data: {type(value).__name__} {value!r}")


def canonical(value: Any) -> str:
    """The one JSON text of plain data: sorted keys, no blanks, ASCII only, no NaN."""
    return _text(plain(value))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any, length: int = 64) -> str:
    """SHA-256 (hexadecimal, first `length` digits) of the canonical text of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def digest_plain(value: Any, length: int = 64) -> str:
    """`digest` of what is plain already (tuples may stand for lists): fast for a million values."""
    return hashlib.sha256(_text(value).encode()).hexdigest()[:length]


class _Nothing:
    """What stands for a field that isn't there."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


def differences(one: Any, other: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where the canonical texts of two plain values differ: (dotted field, value here, value there), a missing field as NOTHING.

    Like the texts it tells 1 from 1.0 and from True, and a field that is None from one that isn't there.
    """
    one, other = (value if value is NOTHING else plain(value) for value in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        rows = []
        for key in sorted(one.keys() | other.keys()):
            rows += differences(one.get(key, NOTHING), other.get(key, NOTHING), f"{path}.{key}" if path else key)
        return rows
    if NOTHING not in (one, other) and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        return []
    return [(path, one, other)]
