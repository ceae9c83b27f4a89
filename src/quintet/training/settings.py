"""Settings as dataclasses: read from a mapping (a YAML file, command-line flags) with their types checked."""

from __future__ import annotations

import difflib
import importlib
import math
import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")


def setting(default: Any, help: str, *, minimum: float | None = None, below: float | None = None) -> Any:
    """A field of a settings class: its default (`MISSING`: it must be given), its bounds, a line of help."""
    metadata = {"help": help, "minimum": minimum, "below": below}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Described:
    """A setting as the outside sees it: `hint` is its type, `part` the class that has it, None if there is only one."""

    name: str
    hint: Any
    help: str
    part: str | None


def describe(cls: type) -> list[Described]:
    """All settings of a class, those of its parts included: names are the same in files and flags, without the part."""
    found = []
    hints = get_type_hints(cls)
    for one in fields(cls):
        if is_dataclass(hints[one.name]):
            found += [Described(inner.name, inner.hint, inner.help, one.name) for inner in describe(hints[one.name])]
        else:
            found.append(Described(one.name, hints[one.name], one.metadata["help"], None))
    return found


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a YAML file. Raises OSError if it cannot be read, ValueError if it is not a mapping of names."""
    yaml = _yaml()
    with open(path, encoding="utf-8") as file:
        try:
            found = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{os.fspath(path)} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{os.fspath(path)} must hold settings, such as learning_rate: 1e-3, a line each")
    return found


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError as error:
        raise ImportError('settings in a file need PyYAML: pip install "quintet[train]"') from error


def build(cls: type[Settings], values: Mapping[str, Any], where: str = "") -> Settings:
    """The settings of a class from values by name; those of its parts lie beside one another.

    Raises ValueError, naming the setting, for a name that is none, a wrong value, and one that is missing.
    """
    known = [one.name for one in describe(cls)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"the settings are {', '.join(known)}"
            raise ValueError(f"there is no setting {where}{name}; {hint}")
    hints: dict[str, Any] = get_type_hints(cls)
    found: dict[str, Any] = {}
    for one in fields(cls):  # type: ignore[arg-type]
        hint = hints[one.name]
        if _has_settings(hint):
            inner = {each.name for each in describe(hint)}
            part = {name: value for name, value in values.items() if name in inner}
            found[one.name] = build(hint, part, where)
        elif one.name in values:
            found[one.name] = _value(where + one.name, hint, values[one.name], one.metadata)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{where}{one.name} is missing: {one.metadata['help']}")
    return cls(**found)


def flatten(settings: Any) -> dict[str, Any]:
    """The values by name, as JSON can hold them: what `build` makes the same settings of."""
    found: dict[str, Any] = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value) and not isinstance(value, type):
            found |= flatten(value)
        elif isinstance(value, list):
            found[one.name] = [flatten(item) if is_dataclass(item) else item for item in value]
        else:
            found[one.name] = value
    return found


def _has_settings(hint: Any) -> bool:
    return is_dataclass(hint)


def _value(name: str, hint: Any, value: Any, metadata: Mapping[str, Any]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _value(name, arguments[0], value, metadata)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name} must be one of {', '.join(map(str, arguments))}; got {value!r}")
        return value
    if origin is list:
        # One item needs no brackets.
        items = value if isinstance(value, (list, tuple)) else [value]
        return [_value(f"{name}[{place}]", arguments[0], item, metadata) for place, item in enumerate(items)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a mapping of names to values, got {value!r}")
        return dict(value)
    if _has_settings(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must have settings of its own, such as name: ..., got {value!r}")
        return build(hint, value, f"{name}.")
    return _within(name, SCALARS[hint](name, value), metadata)


def _within(name: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    minimum, below = metadata["minimum"], metadata["below"]
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if below is not None and value >= below:
        raise ValueError(f"{name} must be below {below}, got {value}")
    return value


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    return value


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # to YAML 1e-3 is a text
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return number


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def _text(name: str, value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}")
    return value


SCALARS: dict[Any, Any] = {int: _integer, float: _number, bool: _boolean, str: _text}
