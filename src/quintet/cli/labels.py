"""The labels of zero-shot-classification: those of the command line, or of each JSON object."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from quintet.cli.failures import Failure
from quintet.cli.inputs import Inputs, check_characters


def check_labels(inputs: Inputs, given: str | None) -> None:
    """Failure for labels that are missing or none, before a model is loaded."""
    check_characters(given or "", "--labels")
    if not inputs.are_json and not _labels_of("", given):
        raise Failure("zero-shot-classification needs --labels, such as --labels sports,politics")
    for index, item in enumerate(inputs if inputs.are_json else ()):
        _check(item, given, inputs.place(index))


def classified(pipe: Any, items: Iterable[Any], labels: str | None) -> Iterator[Any]:
    """Results in order. Neighbours with the same labels go through the pipeline together."""
    for own, group in itertools.groupby(items, key=lambda item: _labels_of(item, labels)):
        yield from pipe((_text_of(item) for item in group), candidate_labels=own)


def _check(item: Any, given: str | None, place: str) -> None:
    try:
        found = _labels_of(item, given)
    except ValueError as error:
        raise Failure(f"{place}: {error}") from error
    if not found:
        raise Failure(f'{place} has no labels: give --labels, or {{"text": ..., "candidate_labels": [...]}}')


def _labels_of(item: Any, given: str | None) -> list[str]:
    """The item's own, or those given. Raises ValueError for what are no labels."""
    from quintet.pipelines.zero_shot import label_list

    given = given or ""
    return label_list(item.get("candidate_labels", given) if isinstance(item, dict) else given)


def _text_of(item: Any) -> Any:
    return item.get("text") if isinstance(item, dict) else item
