"""The task heads: what they read, and the losses of every kind of problem."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from .reference import EOS, HEADS, VARIANTS, Pair, assert_same, make_batch, make_labels, make_pair, shared_pair


def losses(pair: Pair, batch: dict[str, Tensor], **labels: Tensor) -> tuple[Any, Any]:
    with torch.no_grad():
        ours, theirs = (model(**batch, **labels) for model in pair)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-6)
    return ours, theirs


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", [head for head in HEADS if head not in ("Model", "EncoderModel")])
def test_losses_agree(head: str, variant: str, padding: str) -> None:
    batch = make_batch(head, padding)
    assert_same(*losses(shared_pair(head, variant), batch, **make_labels(head, batch)))


# -- language modelling


def test_labels_become_decoder_inputs() -> None:
    batch = make_batch("ForConditionalGeneration")
    labels = make_labels("ForConditionalGeneration", batch)
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    pair = shared_pair("ForConditionalGeneration")
    ours, theirs = losses(pair, source, **labels)
    assert_same(ours, theirs)
    with torch.no_grad():
        shifted = pair.ours(**source, decoder_input_ids=pair.ours._shift_right(labels["labels"]))
    torch.testing.assert_close(ours.logits, shifted.logits)


def test_the_loss_is_the_mean_over_labels_that_count() -> None:
    batch = make_batch("ForConditionalGeneration")
    labels = make_labels("ForConditionalGeneration", batch)["labels"]
    with torch.no_grad():
        outputs = shared_pair("ForConditionalGeneration").ours(input_ids=batch["input_ids"], labels=labels)
    counted = labels != -100
    expected = -outputs.logits.log_softmax(-1)[counted].gather(1, labels[counted][:, None]).mean()
    torch.testing.assert_close(outputs.loss, expected)


def test_only_ignored_labels_give_the_reference_s_nan() -> None:
    labels = torch.full((3, 4), -100)
    batch = {"input_ids": make_batch("ForConditionalGeneration")["input_ids"]}
    with torch.no_grad():
        ours, theirs = (model(**batch, labels=labels).loss for model in shared_pair("ForConditionalGeneration"))
    assert ours.isnan()
    assert theirs.isnan()


# -- sequence classification


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem"),
    [
        (1, torch.tensor([0.5, -1.0, 2.0]), "regression"),
        (1, torch.tensor([[0.5], [-1.0], [2.0]]), "regression"),
        (4, torch.tensor([3, 0, 1]), "single_label_classification"),
        (4, torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]), "multi_label_classification"),
    ],
)
def test_the_problem_is_inferred_from_the_labels(num_labels: int, labels: Tensor, problem: str) -> None:
    pair = make_pair("ForSequenceClassification", num_labels=num_labels)
    batch = make_batch("ForSequenceClassification")
    ours, _ = losses(pair, batch, labels=labels)
    assert ours.logits.shape == (3, num_labels)
    closed_form = {
        "regression": lambda: functional.mse_loss(ours.logits.flatten(), labels.flatten()),
        "single_label_classification": lambda: functional.cross_entropy(ours.logits, labels),
        "multi_label_classification": lambda: functional.binary_cross_entropy_with_logits(ours.logits, labels),
    }[problem]
    torch.testing.assert_close(ours.loss, closed_form())


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("regression", torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 3)),
        ("single_label_classification", torch.tensor([3, 0, 1])),
        ("single_label_classification", torch.tensor([3, -100, 1])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]])),
    ],
)
def test_the_problem_can_be_stated(problem: str, labels: Tensor) -> None:
    pair = make_pair("ForSequenceClassification", num_labels=4, problem_type=problem)
    losses(pair, make_batch("ForSequenceClassification"), labels=labels)
    assert pair.ours.config.problem_type == problem


def test_sequence_classification_reads_the_last_end_of_each_row() -> None:
    """With two ends of sentence in every row it is the last that counts; what follows it does not."""
    batch = make_batch("ForSequenceClassification", "none")
    batch["input_ids"][:, 4] = EOS
    batch["input_ids"][:, -1] = 7
    batch["input_ids"][:, -3] = EOS
    pair = shared_pair("ForSequenceClassification")
    with torch.no_grad():
        ours, theirs = (model(**batch).logits for model in pair)
        states = pair.ours.transformer(**batch, decoder_input_ids=pair.ours._shift_right(batch["input_ids"]))
        by_hand = pair.ours.classification_head(states.last_hidden_state[:, -3])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, by_hand)


def test_sequence_classification_takes_decoder_ids_of_its_own() -> None:
    batch = make_batch("ForSequenceClassification", "none")
    batch["decoder_input_ids"] = (batch["input_ids"] + 5) % 99
    pair = shared_pair("ForSequenceClassification")
    with torch.no_grad():
        assert_same(*(model(**batch) for model in pair))


# -- token classification


def test_token_classification_is_the_encoder_and_one_linear_layer() -> None:
    batch = make_batch("ForTokenClassification")
    model = shared_pair("ForTokenClassification").ours
    names = [name for name, _ in model.named_parameters()]
    assert not any("decoder" in name for name in names)
    assert all(name.startswith(("transformer.", "classifier.")) for name in names)
    with torch.no_grad():
        expected = model.classifier(model.transformer(**batch).last_hidden_state)
        torch.testing.assert_close(model(**batch).logits, expected)


def test_token_classification_with_one_label() -> None:
    batch = make_batch("ForTokenClassification")
    pair = make_pair("ForTokenClassification", num_labels=1)
    losses(pair, batch, labels=torch.zeros_like(batch["input_ids"]))


# -- question answering


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ([1, 2, 3], [4, 5, 6]),
        ([0, 10, 10], [10, 10, 10]),
        ([5, 11, 40], [6, 99, 2]),  # beyond the sequence: ignored
        ([-1, 3, 4], [2, -7, 5]),  # negative: taken as the first position
        ([[1], [2], [3]], [[4], [5], [6]]),
    ],
)
def test_question_answering_losses(start: list[Any], end: list[Any]) -> None:
    positions = {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}
    batch = make_batch("ForQuestionAnswering", "none")
    given = {name: value.clone() for name, value in positions.items()}
    losses(shared_pair("ForQuestionAnswering"), batch, **given)
    assert all(torch.equal(given[name], positions[name]) for name in given)


def test_question_answering_needs_both_positions_for_a_loss() -> None:
    batch = make_batch("ForQuestionAnswering")
    pair = shared_pair("ForQuestionAnswering")
    with torch.no_grad():
        ours, theirs = (model(**batch, start_positions=torch.tensor([1, 2, 3])) for model in pair)
    assert ours.loss is None
    assert_same(ours, theirs)


def test_question_answering_reads_the_decoder() -> None:
    batch = make_batch("ForQuestionAnswering")
    model = shared_pair("ForQuestionAnswering").ours
    with torch.no_grad():
        plain = model(**batch)
        changed = model(**batch, decoder_input_ids=(batch["input_ids"] + 3) % 99)
    assert plain.start_logits.shape == plain.end_logits.shape == batch["input_ids"].shape
    assert not torch.allclose(plain.start_logits, changed.start_logits)
