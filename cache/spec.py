"""The identity of a store: everything that determines its bytes, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fsar_cache.canonical import differences, digest, plain
from fsar_cache.errors import IntegrityError


@dataclass(frozen=True)
class FeatureSpec:
    """What determines a row: pixel contract, frame sampling, geometric transform, backbone with weights, cut, shape and dtype.

    kind: "frames" (uint8) or "features". decoder, sampling, transform, backbone: plain tables, compared field by field.
    shape: of one row (one clip), without the leading row axis. dtype: a numpy name, little-endian ("float32", "float16", "uint8").
    Package versions, hosts and paths are provenance, kept per block, not here; views and dataset are row matters, not here.
    """

    kind: str
    decoder: Mapping[str, Any]
    sampling: Mapping[str, Any]
    transform: Mapping[str, Any]
    backbone: Mapping[str, Any]
    cut: str
    shape: tuple[int, ...]
    dtype: str

    @cached_property
    def fingerprint(self) -> str:
        """The hash that names the store: 16 hexadecimal digits."""
        return digest(self.plain(), 16)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def plain(self) -> dict[str, Any]:
        """The spec as plain data, as it is stored and hashed."""
        made: dict[str, Any] = plain(self)
        return made

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> FeatureSpec:
        """The spec from stored plain data."""
        return cls(**{**values, "shape": tuple(values["shape"])})

    def require_same(self, other: FeatureSpec, here: str, there: str) -> None:
        """Raise IntegrityError that names every differing field and both values, unless the two specs are one."""
        if self.fingerprint != other.fingerprint:
            rows = differences(self.plain(), other.plain())
            lines = "".join(f"\n  {field}: {a!r} in {here}, {b!r} in {there}" for field, a, b in rows)
            raise IntegrityError(
                f"{here} and {there} hold different features:{lines}",
                hint="extract both with the same settings, or name the store you mean",
            )
