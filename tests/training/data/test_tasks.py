"""Templates, tasks and the rates of mixtures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quintet.training.data.records import Record, Source
from quintet.training.data.tasks import Task, Template, fill, mixing_rates

FIELDS = {"q": "Why?", "n": 3, "list": ["a", "b"], "pair": {"en": "yes", "de": "ja"}, "two words": "x", "none": None}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("question: {q}", "question: Why?"),
        ("{n} {list} {list[1]}", "3 a b b"),
        ("{pair[de]} {{{two words}}}", "ja {x}"),
        ("", ""),
    ],
)
def test_a_template_filled_in(template: str, expected: str) -> None:
    assert Template(template).fill(Record(FIELDS, "here")) == expected


def test_a_prefix_is_no_template() -> None:
    assert Template("{q}", prefix="{q}: ").fill(Record(FIELDS, "here")) == "{q}: Why?"


@pytest.mark.parametrize("template", ["{", "}", "{q!r}", "{q:>3}", "{q.upper}", "{}", "{0.x}", "{q[0].y}"])
def test_what_is_no_template(template: str) -> None:
    with pytest.raises(ValueError, match="is no template"):
        Template(template)


@pytest.mark.parametrize("field", ["absent", "list[7]", "pair[fr]", "n[0]"])
def test_a_record_without_the_field(field: str) -> None:
    with pytest.raises(ValueError, match=r"data\.jsonl, line 7 has no field .*; its fields are q, n"):
        Template(f"{{{field}}}").fill(Record(FIELDS, "data.jsonl, line 7"))


@pytest.mark.parametrize("value", [None, True, {}, [], [1], ["a", None]])
def test_a_field_that_is_no_text(value: Any) -> None:
    with pytest.raises(ValueError, match="here: field 'q' must be a text"):
        Template("{q}").fill(Record({"q": value}, "here"))


def test_half_a_character() -> None:
    with pytest.raises(ValueError, match="here has text that is not Unicode"):
        Template("{q}").fill(Record({"q": "\ud83d"}, "here"))


def test_a_task_has_a_source_and_a_target() -> None:
    task = Task(
        "wmt", Source("wmt"), prefix="translate: ", source="{pair[en]}", target="{pair[de]}", metrics=("sacrebleu",)
    )
    assert list(task.templates()) == ["input_ids", "labels"]
    assert fill(task.templates(), Record(FIELDS, "here")) == ("translate: yes", "ja")


sizes = st.lists(st.integers(1, 10**9), min_size=1, max_size=8)


@given(sizes=sizes, maximum=st.floats(1, 1e9), temperature=st.floats(0.5, 20))
def test_mixing_rates_are_the_closed_form(sizes: list[int], maximum: float, temperature: float) -> None:
    weights = [min(size, maximum) ** (1 / temperature) for size in sizes]
    expected = np.array(weights) / sum(weights)
    np.testing.assert_allclose(mixing_rates(sizes, maximum, temperature), expected, rtol=1e-9)


def test_known_mixtures() -> None:
    """By hand; the second as in mT5's paper, exponent 0.3."""
    np.testing.assert_allclose(mixing_rates([10, 30]), [0.25, 0.75])
    np.testing.assert_allclose(mixing_rates([1, 1024], temperature=1 / 0.3), [1 / 9, 8 / 9])
    np.testing.assert_allclose(mixing_rates([10, 1000, 50], maximum=40), [1 / 9, 4 / 9, 4 / 9])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one example"),
        (([3, 0],), "at least one example"),
        (([3], 0), "maximum .* must be positive"),
        (([3], None, 0), "temperature .* must be positive"),
    ],
)
def test_mixtures_that_make_no_sense(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixing_rates(*arguments)
