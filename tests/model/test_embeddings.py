"""Embeddings: reading, replacing, tying and resizing them; shifting labels; counting parameters."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import quintet

from .reference import HEADS, WITH_DECODER, Pair, assert_same, build, make_batch, make_labels, make_pair, shared_pair

VARIANTS = ("t5", "v1.1", "mt5", "umt5", "umt5-tied")
OWN_EMBEDDINGS = ("Model", "ForConditionalGeneration", "EncoderModel", "ForQuestionAnswering")


def tables(model: Any) -> list[Any]:
    """Every module that embeds tokens."""
    inner = getattr(model, "transformer", model)
    stacks = [inner.encoder, inner.decoder] if hasattr(inner, "decoder") else [inner.encoder]
    return [inner.shared, *(stack.embed_tokens for stack in stacks)]


# -- reading and replacing


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_one_table_serves_encoder_and_decoder(head: str, variant: str) -> None:
    """Whether or not the output is tied to it."""
    model = shared_pair(head, variant).ours
    assert model.get_input_embeddings() is tables(model)[0]
    assert len({table.weight.data_ptr() for table in tables(model)}) == 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_the_output_layer(head: str, variant: str) -> None:
    pair = shared_pair(head, variant)
    if head == "ForConditionalGeneration":
        assert pair.ours.get_output_embeddings() is pair.ours.lm_head
        tied = pair.theirs.config.tie_word_embeddings
        assert (pair.ours.lm_head.weight is pair.ours.shared.weight) is tied
        assert (pair.theirs.lm_head.weight is pair.theirs.shared.weight) is tied
    else:
        assert pair.ours.get_output_embeddings() is None
        assert pair.theirs.get_output_embeddings() is None


@pytest.mark.parametrize("head", HEADS)
def test_replaced_input_embeddings_are_used_everywhere(head: str) -> None:
    pair = make_pair(head)
    weight = torch.randn(99, 32, generator=torch.Generator().manual_seed(1))
    for model in pair:
        table = nn.Embedding.from_pretrained(weight.clone(), freeze=False)
        model.set_input_embeddings(table)
        assert model.get_input_embeddings() is table
        assert all(each is table for each in tables(model))
    with torch.no_grad():
        assert_same(*(model(**make_batch(head)) for model in pair))


def test_a_replaced_output_layer_is_used() -> None:
    pair = make_pair("ForConditionalGeneration", "v1.1")
    weight = torch.randn(120, 32, generator=torch.Generator().manual_seed(1))
    for model in pair:
        layer = nn.Linear(32, 120, bias=False)
        layer.weight.data.copy_(weight)
        model.set_output_embeddings(layer)
        assert model.get_output_embeddings() is layer
    with torch.no_grad():
        ours, theirs = (model(**make_batch("ForConditionalGeneration")).logits for model in pair)
    assert ours.shape[-1] == 120
    assert_same(ours, theirs)


@pytest.mark.parametrize("head", OWN_EMBEDDINGS)
def test_encoder_and_decoder_can_be_taken_out(head: str) -> None:
    model = shared_pair(head).ours
    assert model.get_encoder() is model.encoder
    if head in WITH_DECODER:
        assert model.get_decoder() is model.decoder
    batch = make_batch("EncoderModel")
    with torch.no_grad():
        alone = model.get_encoder()(**batch).last_hidden_state
        theirs = shared_pair(head).theirs.get_encoder()(**batch).last_hidden_state
    assert_same(alone, theirs)


def test_training_moves_tied_weights_together() -> None:
    model = make_pair("ForConditionalGeneration").ours.train()
    batch = make_batch("ForConditionalGeneration")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**batch, **make_labels("ForConditionalGeneration", batch)).loss.backward()
    optimizer.step()
    assert model.lm_head.weight is model.shared.weight
    assert len({table.weight.data_ptr() for table in tables(model)}) == 1


@pytest.mark.parametrize("head", ["Model", "ForConditionalGeneration", "EncoderModel"])
def test_moving_a_model_keeps_its_ties(head: str) -> None:
    model = make_pair(head).ours.to(torch.float64)
    assert len({table.weight.data_ptr() for table in tables(model)}) == 1
    if head == "ForConditionalGeneration":
        assert model.lm_head.weight.data_ptr() == model.shared.weight.data_ptr()


# -- resizing


def sizes(model: Any) -> dict[str, Any]:
    head = model.get_output_embeddings()
    return {
        "config": model.config.vocab_size,
        "tables": [(table.num_embeddings, tuple(table.weight.shape)) for table in tables(model)],
        "head": None if head is None else (head.out_features, tuple(head.weight.shape)),
    }


def test_resizing_takes_the_reference_s_arguments() -> None:
    ours, theirs = (
        inspect.signature(library.T5Model.resize_token_embeddings).parameters for library in (quintet, transformers)
    )
    assert list(ours) == list(theirs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"new_num_tokens": 130},
        {"new_num_tokens": 50},
        {"new_num_tokens": 99},
        {"new_num_tokens": 100, "pad_to_multiple_of": 64},
        {"pad_to_multiple_of": 8},
        {"new_num_tokens": 40, "pad_to_multiple_of": 16},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_resizing(head: str, variant: str, arguments: dict[str, int]) -> None:
    pair = make_pair(head, variant)
    old = {name: tensor.clone() for name, tensor in pair.ours.state_dict().items()}
    for model in pair:
        assert model.resize_token_embeddings(**arguments) is model.get_input_embeddings()
    assert sizes(pair.ours) == sizes(pair.theirs)
    for name, tensor in pair.ours.state_dict().items():
        kept = min(len(tensor), len(old[name])) if tensor.dim() else 0
        assert torch.equal(tensor[:kept], old[name][:kept]), name
        assert torch.isfinite(tensor).all(), name
    if head == "ForConditionalGeneration":
        assert (pair.ours.lm_head.weight is pair.ours.shared.weight) is pair.ours.config.tie_word_embeddings
    assert_still_agree(pair, head)


def assert_still_agree(pair: Pair, head: str) -> None:
    """The same network: with the same new rows it gives the same answers."""
    pair.ours.load_state_dict(pair.theirs.state_dict(), strict=True)
    batch = make_batch(head)
    limit = pair.ours.config.vocab_size
    batch = {name: ids.clamp(max=limit - 1) if name.endswith("ids") else ids for name, ids in batch.items()}
    with torch.no_grad():
        assert_same(*(model(**batch) for model in pair))


@pytest.mark.parametrize("variant", ["t5", "v1.1"])
def test_new_rows_start_at_the_mean_of_the_old(variant: str) -> None:
    """So that a new token neither stands out nor changes what the others predict."""
    for model in make_pair("ForConditionalGeneration", variant):
        old = model.shared.weight.detach().clone()
        model.resize_token_embeddings(140)
        torch.testing.assert_close(model.shared.weight[99:], old.mean(0).expand(41, -1), atol=1e-3, rtol=0)
        assert model.lm_head.weight.shape == (140, 32)


@pytest.mark.parametrize("variant", ["t5", "v1.1"])
def test_new_rows_may_be_drawn_as_at_the_start(variant: str) -> None:
    for model in make_pair("ForConditionalGeneration", variant):
        torch.manual_seed(0)
        model.resize_token_embeddings(1099, mean_resizing=False)
        assert model.shared.weight[99:].std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5"])
def test_a_new_token_can_be_read_predicted_and_learnt(variant: str) -> None:
    model = make_pair("ForConditionalGeneration", variant).ours.train()
    model.resize_token_embeddings(105)
    ids = torch.tensor([[104, 3, 1]])
    outputs = model(input_ids=ids, labels=ids)
    assert outputs.logits.shape == (1, 3, 105)
    outputs.loss.backward()
    assert model.get_input_embeddings().weight.grad[104].norm() > 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_resizing_to_nothing_is_refused() -> None:
    model = make_pair("ForConditionalGeneration").ours
    for wrong in (0, -5):
        with pytest.raises(ValueError, match="new_num_tokens"):
            model.resize_token_embeddings(wrong)
    assert model.config.vocab_size == 99
    assert model.shared.num_embeddings == 99


# -- shifting


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("head", [head for head in WITH_DECODER if head != "ForSequenceClassification"])
def test_labels_are_shifted_right(head: str, start: int) -> None:
    pair = make_pair(head, decoder_start_token_id=start)
    labels = torch.tensor([[7, 8, -100, 1, -100], [-100, 3, 1, 0, -100]])
    given = labels.clone()
    ours, theirs = (model._shift_right(given) for model in pair)
    assert torch.equal(ours, theirs)
    assert ours[:, 0].tolist() == [start, start]
    assert not (ours == -100).any()
    assert torch.equal(given, labels), "the labels must stay as they were"


def test_shifting_is_public_for_language_models() -> None:
    pair = shared_pair("ForConditionalGeneration")
    labels = torch.tensor([[7, 8, -100, 1, -100]])
    ours, theirs = (model.prepare_decoder_input_ids_from_labels(labels=labels) for model in pair)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("missing", ["decoder_start_token_id", "pad_token_id"])
def test_shifting_needs_to_know_with_what(missing: str) -> None:
    for library in (quintet, transformers):
        model = build(library, "ForConditionalGeneration", "t5", **{missing: None})
        with pytest.raises(ValueError, match=missing):
            model(input_ids=torch.tensor([[5, 1]]), labels=torch.tensor([[5, 1]]))


# -- counting


@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5", "deep-encoder", "wide"])
@pytest.mark.parametrize("head", HEADS)
def test_parameters_are_counted_as_in_the_reference(head: str, variant: str) -> None:
    counts = []
    for model in make_pair(head, variant):
        model.get_input_embeddings().weight.requires_grad_(False)
        flags = [(trainable, embeddings) for trainable in (False, True) for embeddings in (False, True)]
        counts.append([model.num_parameters(only_trainable=one, exclude_embeddings=other) for one, other in flags])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_knows_its_type_and_device(dtype: torch.dtype) -> None:
    for model in make_pair("ForConditionalGeneration"):
        model.to(dtype)
        assert model.dtype == dtype
        assert model.device == torch.device("cpu")
