"""What `quintet run` reads: texts of the command line, lines of a file or of standard input, JSON lines."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quintet.cli.failures import Failure

JSON_LINES = (".jsonl", ".ndjson")


def read_inputs(texts: list[str] | None, path: Path | None, column: str | None) -> list[Any]:
    """The inputs: the given texts, or the lines of a file or, without either, of standard input.

    A file of JSON lines gives an object a line, or with `column` the value of that name. Empty lines of text are texts
    too, so that answers stay beside their questions. Raises Failure for what cannot be read, naming the line.
    """
    if texts and path is not None:
        raise Failure("give texts or --input, not both")
    if texts:
        return list(texts)
    if path is None:
        return _standard_input()
    lines = _lines(_decoded(path.read_bytes(), str(path)))
    return _objects(lines, str(path), column) if path.suffix in JSON_LINES else lines


def _standard_input() -> list[str]:
    if sys.stdin.isatty():
        raise Failure('no input: give a text (quintet run "translate English to German: Hello." ...), or pipe lines in')
    return _lines(_decoded(sys.stdin.buffer.read(), "standard input"))


def _decoded(data: bytes, name: str) -> str:
    """Strictly: Python may be set to let bytes pass that are no characters."""
    encoding = "utf-8" if name != "standard input" else sys.stdin.encoding
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Failure(f"{name} is not valid {encoding}: {error.reason} at byte {error.start}") from error


def _lines(text: str) -> list[str]:
    """str.splitlines would split within a line, at form feeds say."""
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def _objects(lines: Iterable[str], name: str, column: str | None) -> list[Any]:
    found = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise Failure(f"{name}, line {number} is not JSON: {error}") from error
        if column is not None:
            if not isinstance(value, dict) or column not in value:
                raise Failure(f"{name}, line {number} has no {column!r}")
            value = value[column]
        elif isinstance(value, dict) and set(value) == {"text"}:
            value = value["text"]
        found.append(value)
    return found
