"""Outputs behave as users of the reference know them: attribute, key, index and tuple access alike."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import quintet

from .reference import HEADS, all_outputs, assert_same, make_batch, make_labels, shared_pair

FAMILIES = ("t5", "mt5", "umt5")


def outputs_of(head: str, variant: str = "t5", **arguments: Any) -> tuple[Any, Any]:
    with torch.no_grad():
        ours, theirs = (model(**make_batch(head), **arguments) for model in shared_pair(head, variant))
    return ours, theirs


@pytest.mark.parametrize("variant", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_classes_are_called_as_the_reference_s(head: str, variant: str) -> None:
    ours, theirs = outputs_of(head, variant)
    if head != "EncoderModel":
        assert type(ours).__name__ == type(theirs).__name__
    assert isinstance(ours, getattr(quintet, type(ours).__name__))
    assert type(ours).__module__.startswith("quintet")


def test_the_encoder_answers_what_its_page_says() -> None:
    """The reference returns its decoder's class there, with the cache always None; its page says BaseModelOutput."""
    ours, _ = outputs_of("EncoderModel")
    assert isinstance(ours, quintet.BaseModelOutput)


@pytest.mark.parametrize("head", HEADS)
def test_keys_come_in_the_reference_s_order(head: str) -> None:
    labels = make_labels(head, make_batch(head))
    for arguments in ({}, labels, all_outputs(head), {**labels, **all_outputs(head)}):
        ours, theirs = outputs_of(head, **arguments)
        assert list(ours) == list(ours.keys()) == list(theirs.keys())
        assert len(ours) == len(theirs)


@pytest.mark.parametrize("head", HEADS)
def test_every_way_in_leads_to_the_same_value(head: str) -> None:
    ours, _ = outputs_of(head, **all_outputs(head))
    for index, (key, value) in enumerate(ours.items()):
        assert ours[key] is value
        assert ours[index] is value
        assert getattr(ours, key) is value
        assert ours.to_tuple()[index] is value
        assert ours.get(key) is value
        assert key in ours
    assert tuple(ours.values()) == ours.to_tuple()
    assert len(ours[:2]) == 2
    assert ours[:2][1] is ours[1]
    assert ours[-1] is ours.to_tuple()[-1]


@pytest.mark.parametrize("head", HEADS)
def test_what_was_not_asked_for_is_none_and_no_key(head: str) -> None:
    ours, theirs = outputs_of(head)
    for name in ("loss", "hidden_states", "attentions", "decoder_hidden_states", "encoder_attentions"):
        if hasattr(theirs, name) and name not in theirs:
            assert getattr(ours, name) is None
            assert name not in ours
            assert ours.get(name) is None
            with pytest.raises(KeyError):
                ours[name]


@pytest.mark.parametrize("head", HEADS)
def test_values_that_do_not_exist(head: str) -> None:
    ours, _ = outputs_of(head)
    with pytest.raises(KeyError):
        ours["nonsense"]
    with pytest.raises(IndexError):
        ours[99]
    with pytest.raises(AttributeError):
        ours.nonsense


@pytest.mark.parametrize("head", HEADS)
def test_nothing_can_be_taken_out(head: str) -> None:
    ours, theirs = outputs_of(head)
    key = next(iter(theirs))
    for output in (ours, theirs):
        with pytest.raises(Exception, match=r"."):
            del output[key]
        with pytest.raises(Exception, match=r"."):
            output.pop(key)
        assert key in output


def test_a_value_can_be_replaced_by_attribute_or_key() -> None:
    ours, _ = outputs_of("EncoderModel")
    replacement = torch.zeros(1)
    ours.last_hidden_state = replacement
    assert ours["last_hidden_state"] is ours[0] is replacement
    other = torch.ones(1)
    ours["last_hidden_state"] = other
    assert ours.last_hidden_state is ours[0] is other


def test_an_output_can_be_made_by_hand() -> None:
    states, hidden = torch.zeros(1, 2, 3), (torch.ones(1),)
    output = quintet.BaseModelOutput(last_hidden_state=states, hidden_states=hidden)
    assert output[0] is states
    assert output[1] is hidden
    assert list(output) == ["last_hidden_state", "hidden_states"]
    assert list(quintet.Seq2SeqLMOutput(logits=states)) == ["logits"]
    assert len(quintet.Seq2SeqLMOutput()) == 0
    assert dict(**output) == {"last_hidden_state": states, "hidden_states": hidden}


def test_unpacking_gives_the_keys_as_in_any_mapping() -> None:
    ours, theirs = outputs_of("EncoderModel", output_hidden_states=True)
    assert list(ours) == list(theirs) == ["last_hidden_state", "hidden_states"]
    first, second = ours.to_tuple()
    assert first is ours.last_hidden_state
    assert second is ours.hidden_states


@pytest.mark.parametrize("head", HEADS)
def test_an_output_survives_copying_and_pickling(head: str) -> None:
    no_cache = {} if head in ("EncoderModel", "ForTokenClassification") else {"use_cache": False}
    ours, _ = outputs_of(head, output_hidden_states=True, **no_cache)
    for again in (pickle.loads(pickle.dumps(ours)), copy.copy(ours), copy.deepcopy(ours)):
        assert type(again) is type(ours)
        assert_same(again, dict(ours), tolerance=0)


@pytest.mark.parametrize("head", HEADS)
def test_an_output_is_a_tree_of_tensors_to_torch(head: str) -> None:
    """DistributedDataParallel and `torch.export` look for tensors inside outputs this way."""
    no_cache = {} if head in ("EncoderModel", "ForTokenClassification") else {"use_cache": False}
    ours, _ = outputs_of(head, output_hidden_states=True, **no_cache)
    leaves, structure = pytree.tree_flatten(ours)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    assert_same(pytree.tree_unflatten(leaves, structure), dict(ours), tolerance=0)
