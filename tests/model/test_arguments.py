"""`forward` takes exactly the reference's arguments, and each of them does what it does there."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from .reference import (
    ENCODER_ONLY,
    HEADS,
    TAKES_CACHE,
    WITH_DECODER,
    all_outputs,
    assert_same,
    make_batch,
    make_labels,
    make_pair,
    shared_pair,
)

FAMILIES = {"T5": "t5", "MT5": "mt5", "UMT5": "umt5"}
VARIANTS = FAMILIES.values()
BACKENDS = ("eager", "sdpa")


def compare(head: str, variant: str, backend: str, arguments: dict[str, Any]) -> None:
    """Runs both models with the same arguments and compares everything they return."""
    pair = shared_pair(head, variant, backend)
    with torch.no_grad():
        assert_same(pair.ours(**arguments), pair.theirs(**arguments), 1e-5 if backend == "eager" else 1e-4)


def accepts(head: str, name: str) -> bool:
    return name in inspect.signature(getattr(transformers, f"T5{head}").forward).parameters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_forward_takes_the_reference_s_arguments_in_its_order(head: str, family: str) -> None:
    ours, theirs = (
        inspect.signature(getattr(library, f"{family}{head}").forward) for library in (quintet, transformers)
    )
    assert list(ours.parameters) == list(theirs.parameters)
    assert [p.default for p in ours.parameters.values()] == [p.default for p in theirs.parameters.values()]


@pytest.mark.parametrize("head", HEADS)
def test_arguments_may_be_given_by_position(head: str) -> None:
    pair = shared_pair(head)
    batch = make_batch(head)
    with torch.no_grad():
        assert_same(pair.ours(*batch.values()), pair.theirs(*batch.values()))


def head_masks(head: str, layers: int = 2, heads: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(8)
    names = [name for name in ("head_mask", "decoder_head_mask", "cross_attn_head_mask") if accepts(head, name)]
    return {name: torch.rand(layers, heads, generator=generator) for name in names}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_head_masks_per_layer(head: str, variant: str, backend: str) -> None:
    compare(head, variant, backend, {**make_batch(head), **head_masks(head)})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_head_masks_for_all_layers_at_once(head: str, variant: str, backend: str) -> None:
    masks = {name: mask[0] for name, mask in head_masks(head).items()}
    compare(head, variant, backend, {**make_batch(head), **masks, **all_outputs(head)})


@pytest.mark.parametrize("name", ["head_mask", "decoder_head_mask", "cross_attn_head_mask"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_one_head_mask_alone(head: str, variant: str, name: str) -> None:
    """Each masks its own attention and no other.

    Given `head_mask` alone, the reference's T5 and mT5 crash with NameError; its UMT5 masks the encoder, and so do we.
    """
    if not accepts(head, name):
        pytest.skip(f"{head} has no {name}")
    mask = torch.ones(2, 4)
    mask[0, 1] = mask[1, 2] = 0
    given = {**make_batch(head), name: mask}
    spelt_out = {"decoder_head_mask": torch.ones(2, 4)} if name == "head_mask" and head in WITH_DECODER else {}
    pair = shared_pair(head, variant)
    with torch.no_grad():
        assert_same(pair.ours(**given), pair.theirs(**given, **spelt_out))


@pytest.mark.parametrize("variant", ["deep-encoder", "deep-decoder"])
def test_head_masks_of_unequal_depths(variant: str) -> None:
    deep, shallow = torch.ones(3, 4), torch.ones(1, 4)
    deep[1, 2] = shallow[0, 3] = 0
    masks = (deep, shallow) if variant == "deep-encoder" else (shallow, deep)
    arguments = {"head_mask": masks[0], "decoder_head_mask": masks[1], "cross_attn_head_mask": masks[1]}
    compare("Model", variant, "eager", {**make_batch("Model"), **arguments, "use_cache": False})
    alone = {**make_batch("Model"), "head_mask": masks[0], "use_cache": False}
    compare("Model", variant, "eager", alone)


def encoder_outputs(variant: str, batch: dict[str, Tensor], **arguments: Any) -> Any:
    encoder = shared_pair("Model", variant).theirs.encoder
    with torch.no_grad():
        return encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **arguments)


@pytest.mark.parametrize("form", ["tuple", "long tuple", "list", "output"])
@pytest.mark.parametrize("head", WITH_DECODER)
def test_encoder_outputs_stand_in_for_the_encoder(head: str, form: str) -> None:
    batch = make_batch(head, "left")
    everything = form in ("long tuple", "output")
    states = encoder_outputs("t5", batch, output_hidden_states=everything, output_attentions=everything)
    passed: dict[str, Any] = {"tuple": (states[0],), "long tuple": states.to_tuple(), "list": [states[0]]}
    pair = shared_pair(head)
    # Classification finds the end of the sentence in input_ids even when it does not encode them.
    arguments = {name: value for name, value in batch.items() if name != "input_ids" or head not in TAKES_CACHE}
    theirs = pair.theirs(**arguments, encoder_outputs=passed.get(form, states))
    own_class = quintet.BaseModelOutput(**states)
    ours = pair.ours(**arguments, encoder_outputs=passed.get(form, own_class))
    assert_same(ours, theirs)


@pytest.mark.parametrize("head", WITH_DECODER)
def test_the_encoder_s_own_output_can_be_passed_back(head: str) -> None:
    batch = make_batch(head)
    model = shared_pair(head).ours
    encoder = (model.transformer if head == "ForSequenceClassification" else model).get_encoder()
    with torch.no_grad():
        states = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        again = model(**batch, encoder_outputs=states)
        assert_same(again, model(**batch), tolerance=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", [head for head in HEADS if head != "ForSequenceClassification"])
def test_inputs_embeds_stand_in_for_ids(head: str, variant: str) -> None:
    batch: dict[str, Any] = make_batch(head, "left")
    states = torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(4))
    del batch["input_ids"]
    if head == "ForQuestionAnswering":
        batch["decoder_input_ids"] = make_batch("Model", "none")["decoder_input_ids"]
    compare(head, variant, "eager", {**batch, "inputs_embeds": states})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", WITH_DECODER)
def test_decoder_inputs_embeds_stand_in_for_ids(head: str, variant: str) -> None:
    batch = make_batch(head)
    batch.pop("decoder_input_ids", None)
    length = 8 if head in TAKES_CACHE else 11
    states = torch.randn(3, length, 32, generator=torch.Generator().manual_seed(4))
    compare(head, variant, "eager", {**batch, "decoder_inputs_embeds": states})


@pytest.mark.parametrize("head", HEADS)
def test_the_embeddings_of_the_ids_give_what_the_ids_give(head: str) -> None:
    if head == "ForSequenceClassification":
        pytest.skip("the head looks for the end of the sentence in the ids")
    batch: dict[str, Any] = make_batch(head)
    model = shared_pair(head).ours
    embed = model.get_input_embeddings()
    embedded = {name: value for name, value in batch.items() if name != "input_ids"}
    if head == "ForQuestionAnswering":
        embedded["decoder_input_ids"] = model._shift_right(batch["input_ids"])
    with torch.no_grad():
        assert_same(model(**embedded, inputs_embeds=embed(batch["input_ids"])), model(**batch), tolerance=1e-6)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", HEADS)
def test_masks_may_be_bool_float_or_int(head: str, backend: str, kind: torch.dtype) -> None:
    batch = make_batch(head, "right")
    masks = {name: value.to(kind) for name, value in batch.items() if name.endswith("mask")}
    compare(head, "t5", backend, {**batch, **masks})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", TAKES_CACHE)
def test_a_mask_per_target_position_for_cross_attention(head: str, variant: str, backend: str) -> None:
    """With the encoder already run, `attention_mask` may say what each target position sees of the source."""
    batch: dict[str, Any] = make_batch(head, "none")
    states = torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(4))
    mask = torch.ones(3, 8, 11, dtype=torch.long)
    mask[0, 2:5, 3:] = mask[1, :, ::2] = mask[2, 6, 1:] = 0
    del batch["input_ids"]
    compare(head, variant, backend, {**batch, "encoder_outputs": (states,), "attention_mask": mask})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_additive_mask_for_the_decoder(variant: str, backend: str) -> None:
    """A 4-D `decoder_attention_mask` is taken as it is: what it holds is added to the scores."""
    batch: dict[str, Any] = make_batch("Model", "none")
    allowed = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(6)) > 0.4
    allowed |= torch.eye(8, dtype=torch.bool)
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    compare("Model", variant, backend, {**batch, "decoder_attention_mask": mask})


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("labelled", [False, True])
def test_tuples_are_the_reference_s(head: str, flags: tuple[bool, bool], labelled: bool) -> None:
    if head == "ForTokenClassification":
        pytest.skip("the reference's tuple loses what was asked for; see the test below")
    batch = make_batch(head)
    arguments = {**batch, **(make_labels(head, batch) if labelled else {})}
    arguments |= {"output_hidden_states": flags[0], "output_attentions": flags[1], "return_dict": False}
    pair = shared_pair(head)
    with torch.no_grad():
        ours, theirs = pair.ours(**arguments), pair.theirs(**arguments)
    assert type(ours) is tuple
    assert_same(ours, theirs)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("labelled", [False, True])
def test_a_tuple_holds_what_the_named_output_holds(head: str, labelled: bool) -> None:
    """Also for token classification, where the reference's tuple loses the hidden states and attentions."""
    batch = make_batch(head)
    arguments = {**batch, **(make_labels(head, batch) if labelled else {}), **all_outputs(head)}
    model = shared_pair(head).ours
    with torch.no_grad():
        named, plain = model(**arguments), model(**arguments, return_dict=False)
    assert len(plain) == len(named)
    for one, other in zip(plain, named.to_tuple(), strict=True):
        if isinstance(one, (Tensor, tuple)):
            assert_same(one, other)


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions", "use_cache", "return_dict"])
@pytest.mark.parametrize("head", HEADS)
def test_the_configuration_gives_the_defaults(head: str, name: str) -> None:
    if name == "use_cache" and head in ENCODER_ONLY:
        pytest.skip("an encoder has no cache")
    changes = {name: name.startswith("output")}
    pair = make_pair(head, **changes)
    with torch.no_grad():
        ours, theirs = (model(**make_batch(head)) for model in pair)
    assert isinstance(ours, tuple) is isinstance(theirs, tuple)
    if head == "ForTokenClassification" and name == "return_dict":
        assert torch.allclose(ours[0], theirs[0], atol=1e-5)
    else:
        assert_same(ours, theirs)


@pytest.mark.parametrize("head", WITH_DECODER)
@pytest.mark.parametrize("use_cache", [None, True, False])
def test_a_cache_is_returned_when_it_is_asked_for(head: str, use_cache: bool | None) -> None:
    pair = shared_pair(head)
    with torch.no_grad():
        ours, theirs = (model(**make_batch(head), use_cache=use_cache) for model in pair)
    assert (ours.past_key_values is None) is (theirs.past_key_values is None)
    assert (ours.past_key_values is None) is (use_cache is False)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForQuestionAnswering", "ForConditionalGeneration"])
def test_with_labels_the_cache_is_the_reference_s_choice(head: str) -> None:
    """Classification and question answering drop it in training; language modelling keeps it."""
    batch = make_batch(head)
    arguments = {**batch, **make_labels(head, batch)}
    pair = shared_pair(head)
    with torch.no_grad():
        ours, theirs = (model(**arguments) for model in pair)
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("head", TAKES_CACHE)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_position_places_the_tokens(head: str, variant: str, backend: str) -> None:
    batch = make_batch(head, "none")
    head_ids, tail_ids = batch["decoder_input_ids"].split([5, 3], dim=1)
    results = []
    pair = shared_pair(head, variant, backend)
    for model in pair:
        with torch.no_grad():
            first = model(batch["input_ids"], decoder_input_ids=head_ids, cache_position=torch.arange(5))
            second = model(
                encoder_outputs=(first.encoder_last_hidden_state,),
                decoder_input_ids=tail_ids,
                past_key_values=first.past_key_values,
                cache_position=torch.arange(5, 8),
            )
        results.append(second)
    assert_same(*results, tolerance=1e-4)


@pytest.mark.parametrize("head", TAKES_CACHE)
def test_the_configuration_can_change_its_mind_about_caches(head: str) -> None:
    """Trainers switch `model.config.use_cache` off on a finished model."""
    pair = make_pair(head)
    for model in pair:
        model.config.use_cache = False
    with torch.no_grad():
        ours, theirs = (model(**make_batch(head)) for model in pair)
    assert "past_key_values" not in ours
    assert "past_key_values" not in theirs
