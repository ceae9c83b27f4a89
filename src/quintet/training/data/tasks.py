"""Tasks: what makes text pairs of records; and the rates at which a mixture draws from them."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quintet.training.data.records import Record, Source

# A field by name, and parts of it: {source}, {target[0]}, {translation[en]}. No attributes, formats or conversions.
_FIELD = re.compile(r"[^.\[\]{}!:]+(\[[^\[\]{}]+\])*")


class Template:
    """A text with places for fields of a record: "question: {question} context: {context}".

    {answers[text][0]} is a part of a field, {{ a brace. A list of texts is joined by spaces; numbers are written out.
    `prefix` comes in front as it is. Raises ValueError for a text that is no template.
    """

    def __init__(self, text: str, prefix: str = "") -> None:
        self.text = text
        self.prefix = prefix
        self._parts: list[tuple[str, str | None]] = []
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is no template: {error}") from error
        for literal, field, spec, conversion in parsed:
            if field is not None and (spec or conversion or not _FIELD.fullmatch(field)):
                raise ValueError(
                    f"{text!r} is no template: a place is {{field}}, {{field[0]}} or {{field[name]}}; a brace of the "
                    "text is doubled"
                )
            self._parts.append((literal, field))

    def fill(self, record: Record) -> str:
        """The text for a record. Raises ValueError, naming the record's place, if a field is missing or no text."""
        filled = (literal + ("" if field is None else _value(record, field)) for literal, field in self._parts)
        text = self.prefix + "".join(filled)
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can spell half a character: "\\ud83d" alone
            raise ValueError(f"{record.where} has text that is not Unicode: {error.reason}") from error
        return text


def _value(record: Record, field: str) -> str:
    try:
        value, _ = string.Formatter().get_field(field, (), record.fields)
    except (KeyError, IndexError, TypeError) as error:
        names = ", ".join(record.fields)
        raise ValueError(f"{record.where} has no field {field!r}; its fields are {names}") from error
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        return " ".join(value)
    raise ValueError(f"{record.where}: field {field!r} must be a text, a number or a list of texts, got {value!r:.80}")


@dataclass(frozen=True)
class Task:
    """A text-to-text task: records, how they are read, and the metrics its answers are measured by.

    The source text is `prefix`, taken as it is, and the template `source` filled in; the target text is `target`.
    """

    name: str
    data: Source
    prefix: str = ""
    source: str = "{source}"
    target: str = "{target}"
    metrics: tuple[str, ...] = ()

    def templates(self) -> dict[str, Template]:
        """The templates of the columns input_ids and labels."""
        return {"input_ids": Template(self.source, self.prefix), "labels": Template(self.target)}


def mixing_rates(sizes: Sequence[int], maximum: float | None = None, temperature: float = 1.0) -> np.ndarray:
    """The share of each task in a mixture, (tasks,), of sum 1: proportional to min(size, maximum) ** (1 / temperature).

    `sizes` counts the tasks' examples. Without a maximum and with temperature 1 every example is drawn equally often;
    the higher the temperature, the more equal the tasks.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"every task of a mixture needs at least one example, got sizes {list(sizes)}")
    if maximum is not None and maximum <= 0:
        raise ValueError(f"the maximum of a mixture must be positive, got {maximum}")
    if temperature <= 0:
        raise ValueError(f"the temperature of a mixture must be positive, got {temperature}")
    capped = np.minimum(np.asarray(sizes, dtype=np.float64), np.inf if maximum is None else maximum)
    weights = (capped / capped.max()) ** (1.0 / temperature)
    return weights / weights.sum()


def fill(templates: Mapping[str, Template], record: Record) -> tuple[str, ...]:
    """A record's texts, one for each template."""
    return tuple(template.fill(record) for template in templates.values())
