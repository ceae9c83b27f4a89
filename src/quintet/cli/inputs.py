"""What `quintet run` reads: texts of the command line, lines of a file or of standard input, JSON lines."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quintet.cli.failures import Failure

JSON_LINES = (".jsonl", ".ndjson")
BYTE_ORDER_MARK = "\ufeff"


@dataclass
class Inputs:
    """What to answer: a list, or for standard input an iterator of lines as they arrive. `source` is a file's name."""

    items: Iterable[Any]
    source: str | None = None
    are_json: bool = False

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    @property
    def count(self) -> int | None:
        """How many there are, if that is known yet."""
        return len(self.items) if isinstance(self.items, list) else None

    def place(self, index: int) -> str:
        """Where the user finds an input."""
        return f"text {index + 1}" if self.source is None else f"{self.source}, line {index + 1}"


def read_inputs(texts: list[str] | None, path: Path | None, column: str | None) -> Inputs:
    """The inputs: the given texts, or the lines of a file or, without either, of standard input.

    A file of JSON lines gives a value a line, or with `column` what its objects have under that name. Empty lines of
    text are texts too, so that answers stay beside their questions. Raises Failure for what cannot be read, naming the
    line: of a file at once, of standard input when it comes to that line.
    """
    if texts and path is not None:
        raise Failure("give texts or --input, not both")
    are_json = not texts and path is not None and path.suffix in JSON_LINES
    if column is not None and not are_json:
        raise Failure(f"--column is for an --input of JSON lines ({' or '.join(JSON_LINES)})")
    if texts:
        return _given(texts)
    if path is None:
        return _standard_input()
    with path.open("rb") as file:
        lines = _lines(file, str(path), "utf-8")
        items = list(_values(lines, str(path), column) if are_json else lines)
    return Inputs(items, str(path), are_json)


def check_characters(text: str, place: str) -> None:
    """Failure for lone surrogates: bytes that are no text come as such, and JSON can spell them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Failure(f"{place} holds {text[error.start]!r}, which is no character") from error


def _given(texts: list[str]) -> Inputs:
    inputs = Inputs(list(texts))
    for index, text in enumerate(texts):
        check_characters(text, inputs.place(index))
    return inputs


def _standard_input() -> Inputs:
    if sys.stdin is None:
        raise Failure("standard input is closed: give a text, or pipe lines in")
    if sys.stdin.isatty():
        raise Failure('no input: give a text (quintet run "translate English to German: Hello."), or pipe lines in')
    name = "standard input"
    return Inputs(_lines(sys.stdin.buffer, name, sys.stdin.encoding), name)


def _lines(stream: Iterable[bytes], name: str, encoding: str) -> Iterator[str]:
    """The lines without their ends, each as soon as it is there.

    Decoded strictly: Python may be set to let bytes pass that are no characters. str.splitlines would split within a
    line, at form feeds say.
    """
    number = 0
    for data in stream:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            where = f"{name}, line {number + 1}"
            raise Failure(f"{where} is not valid {encoding}: {error.reason}, its byte {error.start + 1}") from error
        if number == 0:
            text = text.removeprefix(BYTE_ORDER_MARK)
        for line in io.StringIO(text, newline=None):
            number += 1
            yield line.removesuffix("\n")


def _values(lines: Iterable[str], name: str, column: str | None) -> Iterator[Any]:
    """The values of JSON lines. Only at the end may lines be empty: elsewhere answer n would not be that of line n."""
    empty = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            empty = empty or number
            continue
        if empty is not None:
            raise Failure(f"{name}, line {empty} is empty: it must hold a JSON value")
        place = f"{name}, line {number}"
        yield _chosen(_parsed(line, place), place, column)


def _parsed(line: str, place: str) -> Any:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise Failure(f"{place} is not JSON: {error.msg}, column {error.colno}") from error
    except ValueError as error:  # a number of thousands of digits
        raise Failure(f"{place}: {error}") from error
    except RecursionError as error:
        raise Failure(f"{place} is nested too deep") from error
    check_characters(json.dumps(value, ensure_ascii=False), place)
    return value


def _chosen(value: Any, place: str, column: str | None) -> Any:
    """What of a line is the input: an object that holds only a text stands for the text."""
    if column is not None:
        if not isinstance(value, dict) or column not in value:
            raise Failure(f"{place} has no {column!r}")
        return value[column]
    return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value
