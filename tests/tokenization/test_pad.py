"""Padding what was encoded before, as data collators do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

from .oracle import Pair, plain, quietly

ROWS = [[5, 6, 1], [7, 1], [8, 9, 10, 11, 1]]
FEATURES: dict[str, Any] = {
    "one": {"input_ids": [5, 6, 1]},
    "one with a mask": {"input_ids": [5, 6, 1], "attention_mask": [1, 0, 1], "token_type_ids": [0, 0, 0]},
    "columns": {"input_ids": ROWS, "special_tokens_mask": [[0] * (len(row) - 1) + [1] for row in ROWS]},
    "rows": [{"input_ids": row, "attention_mask": [1] * len(row), "labels": 3} for row in ROWS],
    "an empty row": [{"input_ids": []}, {"input_ids": [5, 1]}],
    "numpy rows": [{"input_ids": np.array(row), "attention_mask": np.ones(len(row), int)} for row in ROWS],
    "torch rows": [{"input_ids": torch.tensor(row)} for row in ROWS],
    "torch batch": {"input_ids": torch.tensor([[5, 1], [6, 1]]), "attention_mask": torch.ones(2, 2, dtype=torch.long)},
    "nothing": {"input_ids": []},
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"padding": "max_length", "max_length": 8},
    {"padding": "max_length", "max_length": 2},
    {"pad_to_multiple_of": 4},
    {"padding_side": "left"},
    {"padding": False},
    {"padding": "longest", "return_tensors": "np"},
    {"padding": "max_length", "max_length": 6, "padding_side": "left", "return_attention_mask": True},
]


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(value)
    return [dict(row) for row in value]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", FEATURES)
def test_as_the_reference_pads(name: str, options: dict[str, Any], t5: Pair) -> None:
    theirs, ours = (copied(FEATURES[name]) for _ in range(2))
    if name == "nothing" and "return_tensors" in options:
        pytest.skip("the reference returns no tensors for nothing")
    try:
        expected = plain(quietly(t5.theirs.pad, theirs, **options))
    except ValueError:
        with pytest.raises(ValueError, match="cannot become one tensor"):
            t5.ours.pad(ours, **options)
        return
    assert plain(t5.ours.pad(ours, **options)) == expected


def test_the_input_is_left_alone(t5: Pair) -> None:
    given = {"input_ids": [[5, 1], [5, 6, 1]]}
    t5.ours.pad(given)
    assert given == {"input_ids": [[5, 1], [5, 6, 1]]}


def test_mask_is_padded_even_if_none_is_asked_for(t5: Pair) -> None:
    """The reference leaves its rows ragged then."""
    padded = t5.ours.pad({"input_ids": [[1], [5, 1]], "attention_mask": [[1], [1, 1]]}, return_attention_mask=False)
    assert padded["attention_mask"] == [[1, 0], [1, 1]]


def test_numpy_integers(t5: Pair) -> None:
    """One row as an array, which the reference does not take."""
    padded = t5.ours.pad({"input_ids": np.array([5, 6, 1])}, padding="max_length", max_length=4)
    assert isinstance(padded.input_ids, np.ndarray)
    assert padded.input_ids.tolist() == [5, 6, 1, 0]


def test_collators_of_the_reference(t5: Pair) -> None:
    rows = [{"input_ids": row, "attention_mask": [1] * len(row), "labels": row[:2]} for row in ROWS]
    for collator in (DataCollatorForSeq2Seq, DataCollatorWithPadding):
        given = [dict(row, labels=0) if collator is DataCollatorWithPadding else dict(row) for row in rows]
        theirs, ours = (quietly(collator(tokenizer), [dict(row) for row in given]) for tokenizer in t5)
        assert plain(ours) == plain(theirs)
        assert ours["input_ids"].shape == (3, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one"),
        ([1, 2], "at least one such dictionary"),
        ({"attention_mask": [1]}, "needs 'input_ids'"),
        ([{"input_ids": [1], "labels": 1}, {"input_ids": [1]}], "example 1 lacks"),
        ({"input_ids": [[1], [1]], "labels": [1]}, "'labels' has 1 rows"),
        ({"input_ids": ["a"]}, "expected token ids as int"),
    ],
)
def test_what_cannot_be_padded(given: Any, message: str, t5: Pair) -> None:
    with pytest.raises(ValueError, match=message):
        t5.ours.pad(given)
