"""Settings classes as flags of a command: every setting is one, under its own name."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from quintet.cli.failures import Failure
from quintet.training.settings import Described, describe

ONLY_IN_FILES = ("tasks",)


def with_flags(cls: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator for a command with a keyword `flags`: it gets those that were given, by setting."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        settings = [one for one in describe(cls) if one.name not in ONLY_IN_FILES]

        def wrapped(**values: Any) -> None:
            flags = {one.name: values.pop(one.name) for one in settings}
            command(**values, flags={name: value for name, value in flags.items() if value not in (None, [], ())})

        own = [one for name, one in inspect.signature(command, eval_str=True).parameters.items() if name != "flags"]
        taken = [*own, *map(_parameter, settings)]
        wrapped.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {one.name: one.annotation for one in taken}
        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        return wrapped

    return decorate


def _parameter(one: Described) -> inspect.Parameter:
    kind, metavar = _kind(one.hint)
    flag = "--" + one.name.replace("_", "-")
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    panel = (one.part or "").capitalize() or None
    option = typer.Option(
        *names, help=one.help[0].upper() + one.help[1:], metavar=metavar, rich_help_panel=panel, show_default=False
    )
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _kind(hint: Any) -> tuple[Any, str | None]:
    """The type of a flag, and the word for its value."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _kind(arguments[0])
    if origin is list:
        inner, metavar = _kind(arguments[0])
        return list[inner], metavar  # type: ignore[valid-type]
    if origin is dict:
        return list[str], "NAME=VALUE"
    if origin is Literal:
        return str, "|".join(arguments)
    return hint, {int: "N", float: "X", str: "TEXT"}.get(hint)


def merged(cls: type, written: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file, and over them those of flags."""
    mappings = {one.name for one in describe(cls) if get_origin(one.hint) is dict}
    found = dict(written)
    for name, value in flags.items():
        found[name] = {**written.get(name, {}), **_mapping(name, value)} if name in mappings else value
    return found


def _mapping(name: str, items: list[str]) -> dict[str, Any]:
    """NAME=VALUE, where a value is written as in YAML."""
    import yaml

    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise Failure(f"--{name.replace('_', '-')} must be NAME=VALUE, got {item!r}")
        found[key] = yaml.safe_load(value)
    return found
