"""Sealed lines: one JSON object per line that carries its own CRC-32, so that a torn or damaged line is known as such."""

from __future__ import annotations

import json
import zlib
from typing import Any

_MARK = b',"crc32":"'
_TAIL = len(_MARK) + 8 + len(b'"}')


def seal(value: dict[str, Any]) -> bytes:
    """The line of a non-empty plain dict, newline included; its last field "crc32" covers the rest."""
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return body[:-1] + _MARK + f"{zlib.crc32(body):08x}".encode() + b'"}\n'


def unseal(line: bytes) -> dict[str, Any] | None:
    """The dict of a sealed line (with or without its newline); None where the line is torn or damaged."""
    text = line.removesuffix(b"\n")
    body, tail = text[:-_TAIL] + b"}", text[-_TAIL:]
    if not tail.startswith(_MARK) or not text.endswith(f'{zlib.crc32(body):08x}"}}'.encode()):
        return None
    value: dict[str, Any] = json.loads(body)
    return value
