"""Collators: the padded batch equals the reference's; a packed one gives its examples' loss and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

import quintet
from quintet.training.data.collators import PackingCollator, PaddingCollator
from quintet.training.data.examples import Example
from tests.model.reference import SIZES, build, randomize

CONFIG = quintet.T5Config(decoder_start_token_id=0)
VARIANTS = ("t5", "v1.1", "umt5", "deep-encoder")


def make_examples(lengths: list[tuple[int, int]], seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    draw = [[np.append(rng.integers(3, 99, size - 1), 1).astype(np.uint16) for size in pair] for pair in lengths]
    return [{"input_ids": source, "labels": target} for source, target in draw]


LENGTHS = [(7, 3), (2, 9), (12, 1), (5, 5)]


@pytest.mark.parametrize("multiple", [None, 1, 8])
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[:1]])
def test_padding_equals_the_reference(multiple: int | None, lengths: list[tuple[int, int]]) -> None:
    model = build(transformers, "ForConditionalGeneration", "t5")
    reference = transformers.DataCollatorForSeq2Seq(
        transformers.ByT5Tokenizer(), model, pad_to_multiple_of=multiple, return_tensors="pt"
    )
    examples = make_examples(lengths)
    expected = reference([{name: ids.tolist() for name, ids in example.items()} for example in examples])
    batch = PaddingCollator(CONFIG, **({} if multiple is None else {"pad_to_multiple_of": multiple}))(examples)
    assert set(batch) == set(expected)
    for name, values in batch.items():
        assert values.dtype == expected[name].dtype
        assert values.equal(expected[name]), name


def test_lists_are_padded_too() -> None:
    batch = PaddingCollator(CONFIG)([{"input_ids": [5, 1], "labels": [7, 8, 1]}])
    assert batch["input_ids"].tolist() == [[5, 1]]
    assert batch["decoder_input_ids"].tolist() == [[0, 7, 8]]


def test_the_start_token_is_the_configuration_s() -> None:
    config = quintet.T5Config(decoder_start_token_id=4, pad_token_id=2)
    example = make_examples([(3, 3)])[0]
    padded = PaddingCollator(config, pad_to_multiple_of=5)([example])
    packed = PackingCollator(config, 5, 5)([[example]])
    shifted = [4, *example["labels"][:2].tolist()]
    assert padded["decoder_input_ids"].tolist() == [[*shifted, 1, 2]]
    assert packed["decoder_input_ids"].tolist() == [[*shifted, 2, 2]]
    for batch in (padded, packed):
        assert batch["input_ids"][0, 3:].tolist() == [2, 2]


def test_bad_configurations() -> None:
    with pytest.raises(ValueError, match="pad_token_id and decoder_start_token_id"):
        PaddingCollator(quintet.T5Config(decoder_start_token_id=None))
    with pytest.raises(ValueError, match="pad_to_multiple_of must be at least 1"):
        PaddingCollator(CONFIG, pad_to_multiple_of=0)
    with pytest.raises(ValueError, match="a row of 12 tokens does not fit into 11"):
        PackingCollator(CONFIG, 11, 20)([make_examples([(7, 3), (5, 5)])])


def test_a_packed_row_by_hand() -> None:
    row = [
        {"input_ids": np.array([5, 1]), "labels": np.array([7, 1])},
        {"input_ids": np.array([6]), "labels": np.array([1])},
    ]
    batch = PackingCollator(CONFIG, 4, 4)([row])
    assert batch["input_ids"].tolist() == [[5, 1, 6, 0]]
    assert batch["labels"].tolist() == [[7, 1, 1, -100]]
    assert batch["decoder_input_ids"].tolist() == [[0, 7, 0, 0]]
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1), torch.ones(1, 1)).bool()[None]
    for name in ("attention_mask", "decoder_attention_mask", "cross_attention_mask"):
        assert batch[name].equal(blocks), name


# -- through the model


ROWS = [
    make_examples([(7, 3), (2, 6), (6, 4)]),
    make_examples([(9, 12)], seed=1),
    make_examples([(3, 1), (4, 9)], seed=2),
]


def make_model(variant: str, backend: str) -> Any:
    model = build(quintet, "ForConditionalGeneration", variant, backend)
    randomize(model)
    return model.eval()


def packed_scores(model: Any, rows: list[list[Example]]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = PackingCollator(model.config, 16, 15)(rows)
    labels = batch.pop("labels")
    return model.project(model.run_stacks(**batch)[0]), labels


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_packed_batch_is_its_examples_one_by_one(variant: str, backend: str) -> None:
    model = make_model(variant, backend)
    examples = [example for row in ROWS for example in row]
    tokens = sum(len(example["labels"]) for example in examples)
    one_by_one = torch.zeros(())
    for example in examples:
        source, labels = (torch.tensor(ids.tolist())[None] for ids in (example["input_ids"], example["labels"]))
        one_by_one = one_by_one + model(input_ids=source, labels=labels).loss * labels.numel() / tokens
    expected = gradients(model, one_by_one)
    scores, labels = packed_scores(model, ROWS)
    loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten())
    assert (labels != -100).sum() == tokens
    torch.testing.assert_close(loss, one_by_one, rtol=1e-5, atol=1e-5)
    found = gradients(model, loss)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("side", ["input_ids", "labels"])
def test_examples_of_a_row_do_not_see_each_other(side: str) -> None:
    model = make_model("t5", "sdpa")
    first, second, third = ROWS[0]
    changed = {**second, side: (second[side] + 1) % SIZES["vocab_size"]}
    with torch.no_grad():
        before, _ = packed_scores(model, [[first, second, third]])
        after, _ = packed_scores(model, [[first, changed, third]])
    same = [*range(3), *range(9, 13)]
    torch.testing.assert_close(after[:, same], before[:, same], rtol=0, atol=1e-6)
    assert not torch.allclose(after[:, 3:9], before[:, 3:9], atol=1e-3)


def test_a_mask_of_queries_and_keys_in_the_decoder_stays_causal() -> None:
    model = make_model("t5", "eager")
    source = torch.tensor([[5, 6, 1]])
    target = torch.tensor([[0, 7, 8, 9]])
    full = torch.ones(1, 4, 4, dtype=torch.bool)
    with torch.no_grad():
        plain = model(input_ids=source, decoder_input_ids=target).logits
        masked = model(input_ids=source, decoder_input_ids=target, decoder_attention_mask=full).logits
    torch.testing.assert_close(masked, plain)
