"""Zero-shot classification: log-probabilities of answers from the reference's model, results in its pipeline's form."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import quintet

from .conftest import close

Pipes = Callable[..., tuple[Any, Any]]
TASK = "zero-shot-classification"
TEXTS = [
    "The team won the match.",
    "Parliament passes a law about dogs.",
    "A longer text, about nothing in particular.",
]
LABELS = ["sports", "politics", "dogs and cats"]


@pytest.fixture
def pipe(make_pipes: Pipes) -> Any:
    ours, theirs = make_pipes("text2text-generation")
    classifier = quintet.pipeline(TASK, model=ours.model, tokenizer=ours.tokenizer)
    return SimpleNamespace(ours=classifier, model=theirs.model, tokenizer=theirs.tokenizer)


@torch.no_grad()
def log_prob(pipe: Any, text: str, answer: str) -> float:
    """log P(answer | text) of the reference's model."""
    source = pipe.tokenizer(text, return_tensors="pt")
    labels = pipe.tokenizer(answer, return_tensors="pt").input_ids
    logits = pipe.model(**source, labels=labels).logits.double().log_softmax(dim=-1)
    return logits.gather(-1, labels[:, :, None]).sum().item()


def ranked(text: str, labels: list[str], scores: list[float]) -> dict[str, Any]:
    order = sorted(range(len(labels)), key=lambda index: -scores[index])
    return {"sequence": text, "labels": [labels[i] for i in order], "scores": [scores[i] for i in order]}


def expected(pipe: Any, text: str, labels: list[str], template: str = "This example is {}.") -> dict[str, Any]:
    likelihoods = [math.exp(log_prob(pipe, text, template.format(label))) for label in labels]
    return ranked(text, labels, [likelihood / sum(likelihoods) for likelihood in likelihoods])


@pytest.mark.parametrize("template", ["This example is {}.", "{}", "topic: {}"])
def test_labels_are_scored_as_answers(template: str, pipe: Any) -> None:
    options = {"candidate_labels": LABELS, "hypothesis_template": template}
    results = [expected(pipe, text, LABELS, template) for text in TEXTS]
    assert close(pipe.ours(TEXTS[0], **options), results[0], 1e-4)
    for size in (1, 2, 8):
        assert close(pipe.ours(TEXTS, batch_size=size, **options), results, 1e-4)


@pytest.mark.parametrize("multi_label", [True, False])
def test_each_label_on_its_own(multi_label: bool, pipe: Any) -> None:
    """Also a single label, as in the reference."""
    labels = LABELS if multi_label else LABELS[:1]
    template = "This example is {}."
    for text in TEXTS:
        scores = []
        for label in labels:
            with_text, without = (math.exp(log_prob(pipe, given, template.format(label))) for given in (text, ""))
            scores.append(with_text / (with_text + without))
        result = pipe.ours(text, candidate_labels=labels, multi_label=multi_label)
        assert close(result, ranked(text, labels, scores), 1e-4)


def test_forms_of_the_labels(pipe: Any) -> None:
    result = pipe.ours(TEXTS[0], candidate_labels=LABELS)
    assert pipe.ours(TEXTS[0], LABELS) == pipe.ours(TEXTS[0], tuple(LABELS)) == result
    assert pipe.ours(TEXTS[0], " sports,politics , dogs and cats,") == result
    own = quintet.pipeline(TASK, model=pipe.ours.model, tokenizer=pipe.ours.tokenizer, candidate_labels=LABELS)
    assert own(TEXTS[0]) == result
    assert own(TEXTS[0], candidate_labels=LABELS[:2])["labels"] != result["labels"]
    assert list(own(iter(TEXTS))) == own(TEXTS)


def test_the_form_of_the_result_is_the_reference_s(pipe: Any, make_pipes: Pipes) -> None:
    _, classifier = make_pipes("text-classification")
    classifier.model.config.label2id = {"entailment": 0, "neutral": 1, "contradiction": 2}
    theirs = transformers.pipeline(TASK, model=classifier.model, tokenizer=classifier.tokenizer)
    for inputs in (TEXTS[0], TEXTS):
        result, reference = (run(inputs, candidate_labels=LABELS) for run in (pipe.ours, theirs))
        assert type(result) is type(reference)
        for one, other in zip(*(x if isinstance(x, list) else [x] for x in (result, reference)), strict=True):
            assert list(one) == list(other)
            assert sorted(one["labels"]) == sorted(other["labels"])
            assert sum(one["scores"]) == pytest.approx(1.0)


# -- what it refuses


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (TEXTS[0], {}, "give candidate_labels"),
        (TEXTS[0], {"candidate_labels": []}, "give candidate_labels"),
        (TEXTS[0], {"candidate_labels": " , "}, "give candidate_labels"),
        (TEXTS[0], {"candidate_labels": [1, 2]}, "candidate_labels must be a list of texts"),
        (TEXTS[0], {"candidate_labels": 3}, "candidate_labels must be a list of texts"),
        ("", {"candidate_labels": LABELS}, "the text to classify is empty"),
        (["a", ""], {"candidate_labels": LABELS}, "input 1: the text to classify is empty"),
        ([], {"candidate_labels": LABELS}, "at least one text"),
        (3, {"candidate_labels": LABELS}, "the input must be a text"),
        (TEXTS[0], {"candidate_labels": LABELS, "hypothesis_template": "no place"}, "hypothesis_template must be"),
        (TEXTS[0], {"candidate_labels": LABELS, "hypothesis_template": None}, "hypothesis_template must be"),
    ],
)
def test_refusals(inputs: Any, options: dict[str, Any], message: str, pipe: Any) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.ours(inputs, **options)


def test_unknown_options(pipe: Any) -> None:
    """The reference ignores them."""
    with pytest.raises(TypeError, match="nonsense"):
        pipe.ours(TEXTS[0], LABELS, nonsense=1)
