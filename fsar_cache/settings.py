"""Settings as frozen dataclasses: filled from TOML and from `--set a.b=c`, unknown keys and wrong types refused."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from fsar_cache.errors import MissingError, UsageError, nearest

C = TypeVar("C")


def build(kind: type[C], values: dict[str, Any], where: str = "") -> C:
    """The dataclass `kind` from plain `values` (nested dataclasses from nested dicts).

    Raises UsageError that names the dotted field for an unknown key (with the nearest one) or a value of another type.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    made = {}
    for key, value in values.items():
        dotted = f"{where}.{key}" if where else key
        if key not in fields:
            close = nearest(key, fields)
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(fields)}"
            raise UsageError(f"unknown setting {dotted!r} of {kind.__name__}", hint=hint)
        made[key] = _fit(hints[key], value, dotted)
    missing = [
        n
        for n, f in fields.items()
        if n not in made and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"setting {'.'.join(filter(None, (where, missing[0])))!r} of {kind.__name__} has no value")
    try:
        return kind(**made)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where or kind.__name__}: {error}") from error


def _fit(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `hint`; UsageError where it can't be."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _fit_union(args, hint, value, where)
    if origin is typing.Literal:
        if value in args:
            return value
        close = nearest(str(value), map(str, args))
        raise UsageError(
            f"{where} is {value!r}; allowed: {', '.join(map(str, args))}",
            hint=f"did you mean {close!r}?" if close else None,
        )
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if isinstance(value, dict):
            return build(typing.cast("type[Any]", hint), value, where)
    elif origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(
                _fit(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(inner, value, strict=True))
            )
    elif origin is dict and isinstance(value, dict):
        return {str(k): _fit(args[1], v, f"{where}.{k}") for k, v in value.items()}
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    listed = (
        f"a list in brackets: --set '{where}=[\"{value}\"]'" if origin is tuple and isinstance(value, str) else None
    )
    raise UsageError(f"{where} must be {_name(hint)}, got {value!r}", hint=listed)


def _fit_union(args: tuple[Any, ...], hint: Any, value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    for kind in (k for k in args if k is not type(None)):
        try:
            return _fit(kind, value, where)
        except UsageError:
            if len([k for k in args if k is not type(None)]) == 1:
                raise
    raise UsageError(f"{where} must be {_name(hint)}, got {value!r}")


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint).replace("typing.", "")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; MissingError where it isn't, UsageError (with the line) where it isn't TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise MissingError(f"no recipe or settings file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error


def override(values: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of nested `values` with `a.b=c` assignments applied; c is read as TOML, else taken as a string."""
    made: dict[str, Any] = {k: override(v, ()) if isinstance(v, dict) else v for k, v in values.items()}
    for text in assignments:
        dotted, sign, raw = text.partition("=")
        if not sign or not all(dotted.strip().split(".")):
            raise UsageError(f"--set wants NAME=VALUE, got {text!r}", hint="for example --set train.iterations=500")
        try:
            value = tomllib.loads(f"v = {raw}")["v"]
        except tomllib.TOMLDecodeError:
            value = raw
        *tables, last = dotted.strip().split(".")
        place = made
        for name in tables:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {dotted}: {name!r} is a value, not a table")
        place[last] = value
    return made
