"""What other libraries ask of a model beside its forward pass: the reference's answers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import quintet

from .reference import HEADS, VARIANTS, assert_same, config_values, make_batch, make_pair, shared_pair

HEAD = "ForConditionalGeneration"


def prepared(model: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """What a decoding loop would call the model with, without what is not given."""
    found = model.prepare_inputs_for_generation(*arguments, **options)
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("padding", ["right", "left", "none"])
def test_the_first_step_of_a_decoding_loop(padding: str) -> None:
    """All tokens, masks of both sides; no labels, and no embeddings of a source that is encoded already."""
    batch = make_batch(HEAD, padding)
    source = {name: batch[name] for name in ("attention_mask", "decoder_attention_mask") if name in batch}
    pair = shared_pair(HEAD)
    ours, theirs = (
        prepared(
            model,
            batch["decoder_input_ids"],
            encoder_outputs=(torch.ones(3, 11, 32),),
            use_cache=True,
            labels=batch["decoder_input_ids"],
            inputs_embeds=torch.ones(3, 11, 32),
            **source,
        )
        for model in pair
    )
    assert_same(dict(sorted(ours.items())), dict(sorted(theirs.items())))


@pytest.mark.parametrize("variant", ["t5", "umt5"])
@pytest.mark.parametrize("cached", [1, 4, 7])
def test_a_later_step_of_a_decoding_loop(variant: str, cached: int) -> None:
    """Only tokens that the cache does not hold; the answer is that of all of them at once.

    In float64: the order of sums, which depends on the processor, moves scores in float32 by more than the bound.
    """
    batch = make_batch(HEAD, "none")
    tokens, source = batch["decoder_input_ids"], batch["input_ids"]
    answers = []
    for model in (copy.deepcopy(one).double() for one in shared_pair(HEAD, variant)):
        encoded = model.get_encoder()(source)
        first = model(encoder_outputs=encoded, decoder_input_ids=tokens[:, :cached], use_cache=True)
        cache = first.past_key_values
        positions = torch.arange(cached, tokens.shape[1])
        options = {"encoder_outputs": encoded, "cache_position": positions}
        inputs = prepared(model, tokens, past_key_values=cache, **options)
        assert inputs["past_key_values"] is cache
        answers.append((inputs["decoder_input_ids"], inputs["cache_position"], model(**inputs).logits))
        whole = model(encoder_outputs=encoded, decoder_input_ids=tokens).logits
        torch.testing.assert_close(answers[-1][-1], whole[:, cached:], atol=1e-5, rtol=1e-5)
    assert_same(*answers)


@pytest.mark.parametrize("side", [{}, {"decoder": True}, {"encoder": True}], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_of_text(variant: str, side: dict[str, bool]) -> None:
    ours, theirs = (model.config.get_text_config(**side) for model in shared_pair(HEAD, variant))
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "is_encoder_decoder"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_the_configuration_of_text_is_the_configuration() -> None:
    """Not a copy: who changes the vocabulary's size there changes the model's."""
    config = quintet.T5Config(**config_values(HEAD, "t5"))
    assert config.get_text_config() is config


@pytest.mark.parametrize("head", HEADS)
def test_the_parts_of_a_model(head: str) -> None:
    ours, theirs = shared_pair(head)
    for name in ("base_model_prefix", "main_input_name", "supports_gradient_checkpointing"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.base_model.state_dict().keys() == theirs.base_model.state_dict().keys()
    for part in ("get_encoder", "get_input_embeddings", "get_output_embeddings"):
        if not hasattr(theirs, part):  # two heads of the reference do not give their encoder
            continue
        one, other = getattr(ours, part)(), getattr(theirs, part)()
        assert (one is None) == (other is None), part
        if other is not None:
            assert one.state_dict().keys() == other.state_dict().keys(), part


@pytest.mark.parametrize("head", ["Model", HEAD])
def test_the_decoder(head: str) -> None:
    ours, theirs = (model.get_decoder() for model in shared_pair(head))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("head", HEADS)
def test_embeddings_that_require_gradients(head: str) -> None:
    """Of a frozen model, for adapters behind them; until it is turned off again."""
    for model in make_pair(head):
        ids = make_batch(head)["input_ids"]
        model.requires_grad_(False)
        model.enable_input_require_grads()
        assert model.get_input_embeddings()(ids).requires_grad
        model.disable_input_require_grads()
        assert not model.get_input_embeddings()(ids).requires_grad


def test_embeddings_and_output_can_be_replaced() -> None:
    """Both stacks read the new ones, as in the reference."""
    batch = make_batch(HEAD)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(99, 32, generator=generator), torch.randn(99, 32, generator=generator)
    answers = []
    for model in make_pair(HEAD, "v1.1"):
        embedding, output = torch.nn.Embedding(99, 32, _weight=rows[0]), torch.nn.Linear(32, 99, bias=False)
        output.weight = torch.nn.Parameter(rows[1])
        model.set_input_embeddings(embedding)
        model.set_output_embeddings(output)
        assert model.get_input_embeddings() is embedding
        assert model.get_output_embeddings() is output
        answers.append(model(**batch).logits)
    assert_same(*answers, tolerance=1e-4)
