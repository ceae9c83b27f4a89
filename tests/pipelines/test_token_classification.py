"""Classification of tokens beside the reference's pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import close

Pipes = Callable[..., tuple[Any, Any]]
TASK = "token-classification"
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = [
    "My name is Wolfgang and I live in Berlin.",
    "",
    "Unbelievably,  Jean-Baptiste visits Montréal; 日本 too!",
    "The house is wonderful, the garden is large, the children play with the dog of the neighbours from New York.",
]
STRATEGIES = ("none", "simple", "first", "average", "max")
KEEP_ALL: list[str] = []


@pytest.fixture(scope="module")
def pipes(make_pipes: Pipes) -> Pipes:
    """Pipelines whose labels are those of entities."""

    def make(**options: Any) -> tuple[Any, Any]:
        pair = make_pipes(TASK, changes={"num_labels": len(LABELS)}, **options)
        for pipe in pair:
            pipe.model.config.id2label = dict(enumerate(LABELS))
        return pair

    return make


def quietly(pipe: Any, *arguments: Any, **options: Any) -> Any:
    """The reference's result, without its warning that tokenizers of T5 know no words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pipe(*arguments, **options)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1]], ids=str)
def test_results(strategy: str, inputs: Any, pipes: Pipes) -> None:
    ours, theirs = pipes()
    for ignored in (None, KEEP_ALL, ["B-PER", "PER"]):
        options = {"aggregation_strategy": strategy, "ignore_labels": ignored}
        assert close(ours(inputs, **options), quietly(theirs, inputs, **options))
    assert ours(TEXTS[0], ignore_labels=KEEP_ALL)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_options_of_the_pipeline_itself(strategy: str, pipes: Pipes) -> None:
    ours, theirs = pipes(aggregation_strategy=strategy.upper(), ignore_labels=KEEP_ALL)
    assert close(ours(TEXTS), quietly(theirs, TEXTS))
    assert close(ours(TEXTS, aggregation_strategy="none"), theirs(TEXTS, aggregation_strategy="none"))


@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_slow_tokenizers(strategy: str, pipes: Pipes) -> None:
    """Without offsets: start and end are None."""
    ours, theirs = pipes(fast=False, ignore_labels=KEEP_ALL)
    results = ours(TEXTS, aggregation_strategy=strategy)
    assert close(results, theirs(TEXTS, aggregation_strategy=strategy))
    assert {entity["start"] for result in results for entity in result} == {None}


@pytest.mark.parametrize(
    "options",
    [{"grouped_entities": True}, {"grouped_entities": True, "ignore_subwords": True}, {"ignore_subwords": True}],
)
def test_deprecated_options(options: dict[str, bool], pipes: Pipes) -> None:
    ours, theirs = pipes(ignore_labels=KEEP_ALL)
    with pytest.warns(UserWarning, match="are deprecated: use aggregation_strategy="):
        results = ours(TEXTS, **options)
    assert close(results, quietly(theirs, TEXTS, **options))


@pytest.mark.parametrize("strategy", ["simple", "first"])
@pytest.mark.parametrize("stride", [0, 3, 6])
def test_chunks(stride: int, strategy: str, pipes: Pipes) -> None:
    ours, theirs = pipes(tokenizer={"model_max_length": 12}, aggregation_strategy=strategy, ignore_labels=KEEP_ALL)
    results = ours(TEXTS, stride=stride)
    assert close(results, quietly(theirs, TEXTS, stride=stride))
    assert results[3][-1]["end"] > ours(TEXTS[3])[-1]["end"], "without a stride, the text is cut"
    assert close(ours(TEXTS), quietly(theirs, TEXTS))
    assert close(ours(TEXTS, stride=stride, batch_size=4), results)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("delimiter", [None, "", "--"])
def test_words(strategy: str, delimiter: str | None, pipes: Pipes) -> None:
    ours, theirs = pipes(aggregation_strategy=strategy, ignore_labels=KEEP_ALL)
    options = {"is_split_into_words": True, "delimiter": delimiter}
    words = [text.split() for text in TEXTS if text]
    assert close(ours(words, **options), quietly(theirs, words, **options))
    assert close(ours(words[0], **options), quietly(theirs, words[0], **options))


@pytest.mark.parametrize("variant", ["mt5", "umt5"])
def test_variants(variant: str, pipes: Pipes) -> None:
    ours, theirs = pipes(variant=variant, ignore_labels=KEEP_ALL)
    assert close(ours(TEXTS), theirs(TEXTS))


def test_batches(pipes: Pipes) -> None:
    ours, theirs = pipes(ignore_labels=KEEP_ALL)
    expected = theirs(TEXTS)
    for size in (2, 16):
        assert close(ours(TEXTS, batch_size=size), expected)


# -- what it refuses


@pytest.mark.parametrize("inputs", [None, [], ()])
def test_no_texts(inputs: Any, pipes: Pipes) -> None:
    ours, theirs = pipes()
    with pytest.raises(ValueError, match="at least one text is needed"):
        ours(inputs)
    with pytest.raises(ValueError, match="At least one input is required"):
        theirs(inputs)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([3], {}, "input 0: the input must be a text"),
        ([["a", "b"]], {}, "input 0: the input must be a text or a list of texts, got list"),
        ("a b", {"is_split_into_words": True}, "a text is a list of words"),
        (
            "a",
            {"aggregation_strategy": "best"},
            "aggregation_strategy must be one of none, simple, first, average, max",
        ),
        ("a", {"stride": 3}, "stride needs an aggregation_strategy other than 'none'"),
        ("a", {"stride": 512, "aggregation_strategy": "simple"}, "stride must be from 0 to less than .* 512; got 512"),
        ("a", {"stride": -1, "aggregation_strategy": "simple"}, "stride must be from 0"),
    ],
)
def test_refusals(inputs: Any, options: dict[str, Any], message: str, pipes: Pipes) -> None:
    with pytest.raises(ValueError, match=message):
        pipes()[0](inputs, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"aggregation_strategy": "first"},
        {"aggregation_strategy": "simple", "stride": 2},
        {"is_split_into_words": True},
    ],
)
def test_what_slow_tokenizers_cannot_do(options: dict[str, Any], pipes: Pipes) -> None:
    ours, theirs = pipes(fast=False)
    with pytest.raises(ValueError, match=r"needs? a fast tokenizer"):
        ours(["a b"], **options)
    with pytest.raises((ValueError, TypeError)):
        theirs([["a", "b"]] if "is_split_into_words" in options else ["a b"], **options)


def test_unknown_options(pipes: Pipes) -> None:
    for pipe in pipes():
        with pytest.raises(TypeError, match="nonsense"):
            pipe("a", nonsense=1)
