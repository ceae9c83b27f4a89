"""What keys and values are kept as: the native session gives what the model's own layers make of rounded ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import quintet
from quintet.engine import NativeSession
from quintet.model.cache import DynamicCache, EncoderDecoderCache
from quintet.model.engines import EagerEngine, Wanted, choose_engine
from quintet.model.inputs import Inputs
from tests.engine.models import make_model, random_ids, relative_error
from tests.model.reference import VARIANTS

Rounding = Callable[[torch.Tensor], torch.Tensor]
LENGTHS = [37, 16, 5]


def to_brains(states: torch.Tensor) -> torch.Tensor:
    return states.bfloat16().float()


def to_integers(states: torch.Tensor) -> torch.Tensor:
    """Each token's numbers of a head as integers up to 127, times a scale."""
    scale = (states.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-30)
    return (states / scale).round() * scale


ROUNDINGS: dict[torch.dtype, Rounding] = {torch.bfloat16: to_brains, torch.int8: to_integers}


class RoundedCache(DynamicCache):
    """Keeps keys and values as a function leaves them."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._rounding = rounding

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *rest: Any) -> Any:
        return super().update(self._rounding(key_states), self._rounding(value_states), *rest)


class RoundedEagerEngine(EagerEngine):
    """The model's own layers over rounded keys and values."""

    def __init__(self, model: Any, rounding: Rounding) -> None:
        super().__init__(model, Wanted())
        self._rounding = rounding

    def _new_cache(self, max_length: int, source_length: int) -> EncoderDecoderCache:
        return EncoderDecoderCache(RoundedCache(self._rounding), RoundedCache(self._rounding))


def sources() -> Inputs:
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return Inputs(input_ids=random_ids(len(LENGTHS), max(LENGTHS)) * mask, attention_mask=mask.long())


@torch.no_grad()
def exercise(session: Any) -> torch.Tensor:
    """The scores of some calls: prefixes and single tokens, changed rows, more than one chunk of 64 positions."""
    found = [session.step_all(random_ids(3, 5, 1)), session.step_all(random_ids(3, 70, 2))]
    session.select(torch.tensor([2, 0, 0, 1]))
    found += [session.step_all(random_ids(4, 1, 3)), session.step_all(random_ids(4, 3, 4))]
    session.crop(66)
    session.select(torch.tensor([1, 3, 0]))
    found += [session.step_all(random_ids(3, 1, number)) for number in range(5, 8)]
    return torch.cat([scores.flatten(0, 1) for scores in found])


def native(model: Any, dtype: torch.dtype | str | None) -> torch.Tensor:
    model.cache_dtype = dtype
    inputs, eager = sources(), EagerEngine(model, Wanted())
    with torch.no_grad():
        session = choose_engine(model, inputs).session(inputs, eager.encode(inputs), 100)
    assert isinstance(session, NativeSession)
    return exercise(session)


def own_layers(model: Any, rounding: Rounding) -> torch.Tensor:
    inputs, engine = sources(), RoundedEagerEngine(model, rounding)
    with torch.no_grad():
        return exercise(engine.session(inputs, engine.encode(inputs), 100))


def typical_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The median over tokens of their largest difference, relative to the largest number.

    Not the largest: a key's number half way between two may go either way, and all later layers with it.
    """
    return float((ours - theirs).abs().amax(dim=1).median() / theirs.abs().max())


@pytest.mark.parametrize("dtype", ROUNDINGS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_as_the_models_own_layers_over_rounded_ones(isa: str, variant: str, dtype: torch.dtype) -> None:
    model = make_model(variant, num_decoder_layers=1)
    found = native(model, dtype)
    assert typical_error(found, own_layers(model, ROUNDINGS[dtype])) < 5e-5
    assert typical_error(found, own_layers(model, lambda states: states)) > 2e-4


@pytest.mark.parametrize("d_kv", [5, 16, 64, 128])
@pytest.mark.parametrize("dtype", ROUNDINGS, ids=str)
def test_sizes_of_heads(isa: str, d_kv: int, dtype: torch.dtype) -> None:
    model = make_model(d_kv=d_kv, num_heads=3, num_decoder_layers=1)
    assert typical_error(native(model, dtype), own_layers(model, ROUNDINGS[dtype])) < 5e-5


@pytest.mark.parametrize("dtype", ROUNDINGS, ids=str)
def test_many_layers_stay_near(isa: str, dtype: torch.dtype) -> None:
    model = make_model(num_decoder_layers=3)
    found = native(model, dtype)
    assert relative_error(found, own_layers(model, ROUNDINGS[dtype])) < 0.01
    assert relative_error(found, own_layers(model, lambda states: states)) < 0.03


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_float32_whatever_the_weights_are(isa: str, weights: torch.dtype) -> None:
    """With weights in bfloat16, what keys and values are rounded to is the only thing that changes."""
    model = make_model().to(weights)
    precise = native(model, torch.float32)
    assert torch.equal(precise, native(model, None)) == (weights == torch.float32)
    assert relative_error(native(model, torch.bfloat16), precise) < 0.02


def test_the_default_follows_the_weights(isa: str) -> None:
    model = make_model()
    assert torch.equal(native(model, None), native(model, torch.float32))
    model.bfloat16()
    assert torch.equal(native(model, None), native(model, torch.bfloat16))


def test_names_and_dtypes() -> None:
    model = make_model()
    assert model.cache_dtype is None
    model.cache_dtype = "int8"
    assert model.cache_dtype is torch.int8
    for wrong in ("int4", torch.float16, "float64", 8):
        with pytest.raises(ValueError, match="cache_dtype must be one of float32, bfloat16, int8, or None"):
            model.cache_dtype = wrong
    assert model.cache_dtype is torch.int8


def test_asked_for_while_loading(tmp_path: Any) -> None:
    make_model().save_pretrained(tmp_path)
    load = quintet.T5ForConditionalGeneration.from_pretrained
    assert load(tmp_path, cache_dtype="int8").cache_dtype is torch.int8
    assert load(tmp_path).cache_dtype is None
    with pytest.raises(ValueError, match="cache_dtype"):
        load(tmp_path, cache_dtype="int3")


@pytest.mark.parametrize("search", [{"num_beams": 1}, {"num_beams": 4}], ids=str)
def test_a_trained_model_answers_the_same(search: dict[str, int]) -> None:
    model = quintet.T5ForConditionalGeneration.from_pretrained("quintet-mini", cache_dtype="int8")
    tokenizer = quintet.T5Tokenizer.from_pretrained("quintet-mini")
    texts = ["translate English to German: The house is wonderful.", "translate English to French: Where is the dog?"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    rounded = model.generate(**batch, max_new_tokens=20, **search)
    model.cache_dtype = torch.float32
    assert torch.equal(rounded, model.generate(**batch, max_new_tokens=20, **search))
