"""Bad input gets an error that names the argument, and leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import quintet

from .reference import ENCODER_ONLY, EOS, HEADS, TAKES_CACHE, WITH_DECODER, build, make_batch, make_labels, shared_pair

WRONG = (ValueError, IndexError, TypeError)


def assert_refused(head: str, message: str, variant: str = "t5", backend: str = "sdpa", **arguments: Any) -> None:
    """The error says what is wrong, and the next good input gets the answer it got before."""
    model = shared_pair(head, variant, backend).ours
    good = make_batch(head)
    with torch.no_grad():
        before = model(**good)[0]
        with pytest.raises(WRONG, match=message):
            model(**{name: value for name, value in {**good, **arguments}.items() if value is not None})
        after = model(**good)[0]
    assert torch.equal(before, after)


def states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


EMBEDDING_HEADS = [head for head in HEADS if head != "ForSequenceClassification"]


# -- what to read


@pytest.mark.parametrize("head", HEADS)
def test_both_ids_and_embeddings(head: str) -> None:
    assert_refused(head, r"input_ids.*inputs_embeds", inputs_embeds=states(3, 11, 32))


@pytest.mark.parametrize("head", HEADS)
def test_neither_ids_nor_embeddings(head: str) -> None:
    assert_refused(head, "input_ids", input_ids=None)


@pytest.mark.parametrize("head", TAKES_CACHE)
def test_nothing_for_the_decoder(head: str) -> None:
    assert_refused(head, "decoder_input_ids", decoder_input_ids=None, decoder_attention_mask=None)


@pytest.mark.parametrize("head", WITH_DECODER)
def test_both_decoder_ids_and_embeddings(head: str) -> None:
    arguments = {"decoder_input_ids": torch.ones(3, 8, dtype=torch.long), "decoder_inputs_embeds": states(3, 8, 32)}
    assert_refused(head, r"decoder_input_ids.*decoder_inputs_embeds", **arguments)


def test_sequence_classification_of_embeddings() -> None:
    """It looks for the end of the sentence in the ids; the reference refuses embeddings as well."""
    model = shared_pair("ForSequenceClassification").ours
    with pytest.raises((NotImplementedError, ValueError), match=r"inputs_embeds|input_ids"):
        model(inputs_embeds=states(3, 11, 32))


# -- ids


@pytest.mark.parametrize("wrong", [-1, 99, 100_000])
@pytest.mark.parametrize("head", HEADS)
def test_ids_beyond_the_vocabulary(head: str, wrong: int) -> None:
    ids = make_batch(head)["input_ids"]
    ids[1, 2] = wrong
    assert_refused(head, rf"input_ids.*(98|99)|(98|99).*input_ids|input_ids.*{wrong}", input_ids=ids)


@pytest.mark.parametrize("wrong", [-100, 99])
@pytest.mark.parametrize("head", WITH_DECODER)
def test_decoder_ids_beyond_the_vocabulary(head: str, wrong: int) -> None:
    ids = torch.full((3, 8), 5)
    ids[2, 7] = wrong
    assert_refused(head, "decoder_input_ids", decoder_input_ids=ids)


@pytest.mark.parametrize("head", HEADS)
def test_ids_that_are_no_whole_numbers(head: str) -> None:
    assert_refused(head, "input_ids", input_ids=make_batch(head)["input_ids"].float())


@pytest.mark.parametrize("head", WITH_DECODER)
def test_decoder_ids_that_are_no_whole_numbers(head: str) -> None:
    assert_refused(head, "decoder_input_ids", decoder_input_ids=torch.ones(3, 8))


@pytest.mark.parametrize("shape", [(11,), (3, 11, 1)])
@pytest.mark.parametrize("head", HEADS)
def test_ids_of_the_wrong_shape(head: str, shape: tuple[int, ...]) -> None:
    assert_refused(head, "input_ids", input_ids=torch.full(shape, 5), attention_mask=None)


@pytest.mark.parametrize("head", HEADS)
def test_ids_that_are_no_tensor(head: str) -> None:
    assert_refused(head, "input_ids", input_ids=[[5, 6, 1]], attention_mask=None)


@pytest.mark.parametrize("head", HEADS)
def test_no_tokens_at_all(head: str) -> None:
    assert_refused(head, "input_ids", input_ids=torch.ones(3, 0, dtype=torch.long), attention_mask=None)


# -- embeddings


@pytest.mark.parametrize("shape", [(3, 11, 31), (3, 11), (3, 11, 32, 1)])
@pytest.mark.parametrize("head", EMBEDDING_HEADS)
def test_embeddings_of_the_wrong_shape(head: str, shape: tuple[int, ...]) -> None:
    extra = {"decoder_input_ids": torch.ones(3, 8, dtype=torch.long)} if head == "ForQuestionAnswering" else {}
    assert_refused(head, "inputs_embeds", input_ids=None, inputs_embeds=states(*shape), **extra)


@pytest.mark.parametrize("head", TAKES_CACHE)
def test_decoder_embeddings_of_the_wrong_width(head: str) -> None:
    arguments = {"decoder_input_ids": None, "decoder_inputs_embeds": states(3, 8, 48)}
    assert_refused(head, "decoder_inputs_embeds", **arguments)


# -- masks


@pytest.mark.parametrize("shape", [(3, 10), (3, 12), (2, 11), (1, 11), (11,), (3, 1, 1, 11, 1)])
@pytest.mark.parametrize("head", HEADS)
def test_a_mask_of_another_shape(head: str, shape: tuple[int, ...]) -> None:
    assert_refused(head, "attention_mask", attention_mask=torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(3, 7), (3, 9), (2, 8), (8,), (3, 1, 7, 8)])
@pytest.mark.parametrize("head", TAKES_CACHE)
def test_a_decoder_mask_of_another_shape(head: str, shape: tuple[int, ...]) -> None:
    assert_refused(head, "decoder_attention_mask", decoder_attention_mask=torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 4), (2, 4, 1)])
@pytest.mark.parametrize("name", ["head_mask", "decoder_head_mask", "cross_attn_head_mask"])
@pytest.mark.parametrize("head", ["Model", "EncoderModel"])
def test_a_head_mask_of_another_shape(head: str, name: str, shape: tuple[int, ...]) -> None:
    if head in ENCODER_ONLY and name != "head_mask":
        pytest.skip("an encoder has one head mask")
    assert_refused(head, name, **{name: torch.ones(shape)})


# -- batches


@pytest.mark.parametrize("head", WITH_DECODER)
def test_source_and_target_of_different_batches(head: str) -> None:
    arguments = {"decoder_input_ids": torch.ones(2, 8, dtype=torch.long), "decoder_attention_mask": None}
    assert_refused(head, "decoder_input_ids|batch", **arguments)


@pytest.mark.parametrize("head", WITH_DECODER)
def test_encoder_outputs_of_another_batch(head: str) -> None:
    assert_refused(head, r"encoder.*2.*3|encoder.*3.*2", encoder_outputs=(states(2, 11, 32),))


@pytest.mark.parametrize("wrong", [states(3, 11, 31), states(3, 11), "states", None])
def test_encoder_outputs_that_are_none(wrong: Any) -> None:
    assert_refused("ForConditionalGeneration", "encoder_outputs", input_ids=None, encoder_outputs=(wrong,))


def test_encoder_outputs_without_states() -> None:
    assert_refused("ForConditionalGeneration", "encoder_outputs", input_ids=None, encoder_outputs=())


# -- labels


@pytest.mark.parametrize("wrong", [-1, -101, 99, 5000])
def test_language_model_labels_beyond_the_vocabulary(wrong: int) -> None:
    labels = make_batch("ForConditionalGeneration")["decoder_input_ids"]
    labels[0, 0] = wrong
    assert_refused("ForConditionalGeneration", "labels", labels=labels)
    alone = {"decoder_input_ids": None, "decoder_attention_mask": None}
    assert_refused("ForConditionalGeneration", "labels", labels=labels, **alone)


@pytest.mark.parametrize("wrong", [-1, 3])
@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
def test_classes_that_do_not_exist(head: str, wrong: int) -> None:
    labels = make_labels(head, make_batch(head))["labels"]
    labels[-1] = wrong
    assert_refused(head, "labels", labels=labels)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("ForConditionalGeneration", (3, 7)),
        ("ForConditionalGeneration", (2, 8)),
        ("ForSequenceClassification", (2,)),
        ("ForSequenceClassification", (3, 2)),
        ("ForTokenClassification", (3, 10)),
        ("ForTokenClassification", (3,)),
    ],
)
def test_labels_of_another_shape(head: str, shape: tuple[int, ...]) -> None:
    assert_refused(head, "labels", labels=torch.ones(shape, dtype=torch.long))


def test_labels_that_are_no_whole_numbers() -> None:
    assert_refused("ForConditionalGeneration", "labels", labels=torch.ones(3, 8))
    assert_refused("ForTokenClassification", "labels", labels=torch.ones(3, 11))


@pytest.mark.parametrize("name", ["start_positions", "end_positions"])
def test_positions_of_another_batch(name: str) -> None:
    positions = make_labels("ForQuestionAnswering", {})
    assert_refused("ForQuestionAnswering", name, **{**positions, name: torch.tensor([1, 2])})


def test_positions_that_are_no_whole_numbers() -> None:
    positions = make_labels("ForQuestionAnswering", {})
    assert_refused("ForQuestionAnswering", "start_positions", **{**positions, "start_positions": torch.ones(3)})


# -- ends of sentences


def test_rows_with_unequal_numbers_of_ends() -> None:
    ids = make_batch("ForSequenceClassification")["input_ids"]
    ids[0, 1] = EOS
    assert_refused("ForSequenceClassification", "(?i)eos|end", input_ids=ids)


def test_rows_without_an_end() -> None:
    ids = make_batch("ForSequenceClassification")["input_ids"].masked_fill_(
        make_batch("ForSequenceClassification")["input_ids"] == EOS, 7
    )
    assert_refused("ForSequenceClassification", "(?i)eos|end", input_ids=ids)


# -- caches


@pytest.mark.parametrize("wrong", ["cache", 3, [1, 2], torch.zeros(1), {}])
@pytest.mark.parametrize("head", TAKES_CACHE)
def test_something_that_is_no_cache(head: str, wrong: Any) -> None:
    assert_refused(head, "past_key_values", past_key_values=wrong)


def test_a_cache_of_another_batch() -> None:
    model = shared_pair("ForConditionalGeneration", "t5", "sdpa").ours
    with torch.no_grad():
        cache = model(**make_batch("ForConditionalGeneration", "none")).past_key_values
    two = {name: value[:2] for name, value in make_batch("ForConditionalGeneration", "none").items()}
    two |= {"attention_mask": None, "decoder_attention_mask": None}
    assert_refused("ForConditionalGeneration", "past_key_values", **two, past_key_values=cache)


@pytest.mark.parametrize("head", HEADS)
def test_an_argument_that_does_not_exist(head: str) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        shared_pair(head).ours(**make_batch(head), nonsense=1)


def test_question_answering_has_two_labels() -> None:
    """The start and the end; the reference builds the model and crashes when it runs."""
    with pytest.raises(ValueError, match="num_labels"):
        build(quintet, "ForQuestionAnswering", "t5", num_labels=3)


def test_the_wrong_kind_of_configuration() -> None:
    for wrong in ({"d_model": 8}, None, "google-t5/t5-small"):
        with pytest.raises((TypeError, ValueError), match="T5Config"):
            quintet.T5Model(wrong)
