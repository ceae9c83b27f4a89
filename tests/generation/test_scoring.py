"""`score` and `perplexity` give the log-probabilities that the reference's logits and losses imply."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from ..model.reference import EOS, VARIANTS, make_batch, shared_pair

HEAD = "ForConditionalGeneration"
TARGETS = [[[5, 6, 7, EOS], [9, EOS]], [[8, EOS], [4, 4, 4, 4, 4, EOS], [11]], [[EOS]]]


@torch.no_grad()
def expected_for(model: Any, batch: dict[str, Tensor], row: int, target: list[int]) -> Tensor:
    """Log-probabilities of one target's tokens, by the reference alone."""
    source = {name: value[row : row + 1] for name, value in batch.items()}
    logits = model(**source, labels=torch.tensor([target])).logits[0]
    return torch.log_softmax(logits, dim=-1)[torch.arange(len(target)), torch.tensor(target)]


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_target_of_every_source(variant: str, padding: str) -> None:
    ours, theirs = shared_pair(HEAD, variant, "sdpa")
    batch = make_batch("EncoderModel", padding)
    result = ours.score(**batch, targets=TARGETS)
    assert result.sequence_log_probs.shape == (3, 3)
    assert result.lengths.tolist() == [[4, 2, 0], [2, 6, 1], [1, 0, 0]]
    for row, own in enumerate(TARGETS):
        for index, target in enumerate(own):
            expected = expected_for(theirs, batch, row, target)
            torch.testing.assert_close(
                result.token_log_probs[row, index, : len(target)], expected, atol=1e-4, rtol=1e-4
            )
            assert not result.token_log_probs[row, index, len(target) :].any()
            assert math.isclose(result.sequence_log_probs[row, index], expected.sum(), rel_tol=1e-4)
    assert result.sequence_log_probs[0, 2] == -torch.inf


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_do_not_change_scores(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared_pair(HEAD, "v1.1", "sdpa").ours
    batch = make_batch("EncoderModel", "left")
    expected = model.score(**batch, targets=TARGETS).sequence_log_probs
    monkeypatch.setattr("quintet.model.scoring.LOGITS_AT_ONCE", 99 * 6 * 2)  # two targets at a time
    scores = model.score(**batch, targets=TARGETS, batch_size=batch_size).sequence_log_probs
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_labels_as_in_training_are_targets() -> None:
    ours, theirs = shared_pair(HEAD, "t5", "sdpa")
    batch = make_batch("EncoderModel")
    labels = torch.tensor([[5, 6, EOS], [7, EOS, -100], [EOS, -100, -100]])
    result = ours.score(**batch, targets=labels)
    with torch.no_grad():
        loss = theirs(**batch, labels=labels).loss
    assert math.isclose(-result.sequence_log_probs.sum() / result.lengths.sum(), loss, rel_tol=1e-5)


def test_a_ready_encoding_and_a_list_of_rows() -> None:
    model = shared_pair(HEAD, "t5", "sdpa").ours
    batch = make_batch("EncoderModel")
    expected = model.score(**batch, targets=TARGETS).sequence_log_probs
    with torch.no_grad():
        encoded = model.encoder(**batch)
    ready = model.score(encoder_outputs=encoded, attention_mask=batch["attention_mask"], targets=TARGETS)
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    for result in (ready, model.score(rows, TARGETS)):
        torch.testing.assert_close(result.sequence_log_probs, expected, atol=1e-4, rtol=1e-4)


def test_perplexity_is_exp_of_the_mean_loss() -> None:
    ours, theirs = shared_pair(HEAD, "v1.1", "sdpa")
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randint(3, 99, (source,), generator=generator).tolist(), torch.randint(3, 99, (target,)).tolist())
        for source, target in ((4, 3), (9, 1), (2, 7), (5, 5))
    ]
    losses, tokens = 0.0, 0
    with torch.no_grad():
        for source, target in data:
            loss = theirs(input_ids=torch.tensor([source]), labels=torch.tensor([target])).loss
            losses, tokens = losses + float(loss) * len(target), tokens + len(target)
    expected = math.exp(losses / tokens)
    examples = [{"input_ids": source, "labels": target} for source, target in data]
    assert math.isclose(ours.perplexity(data), expected, rel_tol=1e-4)
    assert math.isclose(ours.perplexity(iter(examples), batch_size=3), expected, rel_tol=1e-4)


def test_texts_with_a_real_model(shared: Path) -> None:
    folder = shared / "models" / "flan-t5-small-title"
    model = quintet.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = quintet.AutoTokenizer.from_pretrained(folder)
    answers = ["Das Haus ist wunderbar.", "Das Haus ist schlecht.", "The house is wonderful."]
    result = model.score("translate English to German: The house is wonderful.", answers, tokenizer=tokenizer)
    assert result.sequence_log_probs.shape == (1, 3)
    assert result.sequence_log_probs.argmax() == 0
    reference = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    source = tokenizer(["translate English to German: The house is wonderful."], return_tensors="pt")
    for answer, score in zip(answers, result.sequence_log_probs[0], strict=True):
        labels = tokenizer(answer, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = reference(**source, labels=labels).loss
        assert math.isclose(score, -loss * labels.shape[1], rel_tol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": TARGETS[:2]}, "one entry for each of the 3 sources"),
        ({"targets": [[[5]], [[]], [[5]]]}, "row 1: a target is empty"),
        ({"targets": [[[5]], [], [[5]]]}, "row 1"),
        ({"targets": [[[5]], [["a"]], [[5]]]}, "row 1: a target must be"),
        ({"targets": [[[5]], ["a"], [[5]]]}, "tokenizer"),
        ({"targets": [[[5]], [[99]], [[5]]]}, "targets must be from 0 to 98"),
        ({"targets": None}, "targets must be a list"),
        ({"targets": TARGETS, "nonsense": 1}, "nonsense"),
        ({"targets": TARGETS, "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_targets_are_refused(arguments: dict[str, Any], message: str) -> None:
    model = shared_pair(HEAD).ours
    with pytest.raises((ValueError, IndexError), match=message):
        model.score(**make_batch("EncoderModel"), **arguments)


@pytest.mark.parametrize(
    ("data", "message"), [([], "at least one"), ([3], "example 0"), ([([5], [6]), "ab"], "example 1")]
)
def test_bad_data_is_refused(data: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared_pair(HEAD).ours.perplexity(data)
