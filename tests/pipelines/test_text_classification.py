"""Classification of texts beside the reference's pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import close

Pipes = Callable[..., tuple[Any, Any]]
TASK = "text-classification"
TEXTS = ["The house is wonderful.", "What a mess!", "", "A longer text, about a dog that the neighbours like a lot."]
PAIR = {"text": "The dog sleeps.", "text_pair": "It is tired."}


@pytest.mark.parametrize("options", [{}, {"top_k": None}, {"top_k": 2}, {"top_k": 1}, {"top_k": 9}])
@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1], PAIR, [PAIR, PAIR], [[["a dog", "a cat"]]]])
def test_results(inputs: Any, options: dict[str, Any], make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    assert close(ours(inputs, **options), theirs(inputs, **options))


@pytest.mark.parametrize("options", [{"top_k": None}, {"top_k": 2}])
def test_options_of_the_pipeline_itself(options: dict[str, Any], make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK, **options)
    for inputs in (TEXTS[0], TEXTS):
        assert close(ours(inputs), theirs(inputs))
        assert close(ours(inputs, top_k=1), theirs(inputs, top_k=1))


@pytest.mark.parametrize("value", [True, False])
def test_return_all_scores(value: bool, make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    for inputs in (TEXTS[0], TEXTS):
        with pytest.warns(UserWarning, match="return_all_scores is deprecated"):
            result = ours(inputs, return_all_scores=value)
        with pytest.warns(UserWarning, match="deprecated"):
            expected = theirs(inputs, return_all_scores=value)
        assert close(result, expected)


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none", "SoftMax"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"num_labels": 1}, {"problem_type": "regression"}, {"problem_type": "multi_label_classification"}],
    ids=str,
)
def test_functions(function: str | None, changes: dict[str, Any], make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK, changes=changes)
    options = {"function_to_apply": function, "top_k": None}
    assert close(ours(TEXTS, **options), theirs(TEXTS, **options))


def test_names_of_labels(make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    names = {0: "good", 1: "bad", 2: "ugly"}
    for pipe in (ours, theirs):
        pipe.model.config.id2label = names
    try:
        assert close(ours(TEXTS), theirs(TEXTS))
        assert {label["label"] for label in ours(TEXTS[0], top_k=None)} == set(names.values())
    finally:
        for pipe in (ours, theirs):
            pipe.model.config.id2label = {index: f"LABEL_{index}" for index in names}


@pytest.mark.parametrize(
    "options", [{"truncation": True, "max_length": 4}, {"padding": "max_length", "max_length": 40}]
)
def test_options_of_the_tokenizer(options: dict[str, Any], make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    assert close(ours(TEXTS, **options), theirs(TEXTS, **options))


@pytest.mark.parametrize("variant", ["mt5", "umt5", "v1.1"])
def test_variants(variant: str, make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK, variant=variant)
    assert close(ours(TEXTS, top_k=None), theirs(TEXTS, top_k=None))


@pytest.mark.parametrize("fast", [True, False])
def test_batches_of_texts_and_pairs(fast: bool, make_pipes: Pipes) -> None:
    """The head wants equally many ends of sequence in a batch; the reference refuses such a mix in one batch."""
    ours, theirs = make_pipes(TASK, fast=fast)
    inputs = [TEXTS[0], PAIR, *TEXTS[1:], PAIR, "two </s> ends"]
    expected = [theirs([item])[0] for item in inputs]
    for size in (1, 2, 3, 16):
        assert close(ours(inputs, batch_size=size), expected)


# -- what it refuses


@pytest.mark.parametrize("value", [0, -1, 1.5, "", True])
def test_wrong_top_k(value: Any, make_pipes: Pipes) -> None:
    with pytest.raises(ValueError, match="top_k must be a positive integer, got"):
        make_pipes(TASK)[0](TEXTS, top_k=value)


@pytest.mark.parametrize("value", ["tanh", 3, ""])
def test_unknown_functions(value: Any, make_pipes: Pipes) -> None:
    with pytest.raises(ValueError, match="function_to_apply must be one of sigmoid, softmax, none, got"):
        make_pipes(TASK)[0](TEXTS, function_to_apply=value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "must be a text"),
        ([None], "input 0: the input must be a text"),
        (["a", ["b", "c"]], r"input 1: a pair is given as \{"),
        ({"text_pair": "a"}, "a pair has the keys text and text_pair, got text_pair"),
        ([{"text": "a", "label": 1}], "input 0: a pair has the keys text and text_pair, got text, label"),
        ({"text": 3}, "must be a text"),
    ],
)
def test_what_is_no_text(inputs: Any, message: str, make_pipes: Pipes) -> None:
    with pytest.raises(ValueError, match=message):
        make_pipes(TASK)[0](inputs)


def test_unknown_options(make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    with pytest.raises(TypeError, match="nonsense"):
        ours(TEXTS, nonsense=1)
    with warnings.catch_warnings(), pytest.raises(TypeError, match="nonsense"):
        theirs(TEXTS, nonsense=1)
