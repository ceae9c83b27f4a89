"""The cache classes on their own: each method does to plain tensors what the reference's does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from .reference import assert_same, cache_layers

LIBRARIES = (quintet, transformers)


def states(length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values of three rows, two heads and `length` positions."""
    generator = torch.Generator().manual_seed(seed + length)
    keys, values = (torch.randn(3, 2, length, 4, generator=generator) for _ in range(2))
    return keys, values


def dynamic(library: Any, layers: int = 2, length: int = 5) -> Any:
    cache = library.DynamicCache()
    for layer in range(layers):
        cache.update(*states(length, layer), layer)
    return cache


def encoder_decoder(library: Any) -> Any:
    return library.EncoderDecoderCache(dynamic(library), dynamic(library, length=7))


def static(library: Any, length: int = 6) -> Any:
    config = library.T5Config(num_layers=2, d_model=8, d_kv=4, num_heads=2)
    return library.StaticCache(config=config, max_cache_len=length)


def on_both(make: Any, change: Any) -> SimpleNamespace:
    """Makes the object with each library, applies the change, keeps the objects and what the change returned."""
    ours, theirs = (make(library) for library in LIBRARIES)
    return SimpleNamespace(ours=ours, theirs=theirs, answers=(change(ours), change(theirs)))


def extend(cache: Any) -> Any:
    return cache.update(*states(2, 9), 0)


CHANGES = {
    "extend": extend,
    "add a layer": lambda cache: cache.update(*states(5, 9), 2),
    "reorder": lambda cache: cache.reorder_cache(torch.tensor([1, 1, 0])),
    "repeat": lambda cache: cache.batch_repeat_interleave(3),
    "select": lambda cache: cache.batch_select_indices(torch.tensor([2])),
    "crop": lambda cache: cache.crop(2),
    "crop from the end": lambda cache: cache.crop(-2),
    "crop nothing": lambda cache: cache.crop(50),
    "legacy": lambda cache: cache.to_legacy_cache(),
    "length": lambda cache: cache.get_seq_length(),
    "length of a layer": lambda cache: cache.get_seq_length(1),
    "length of no layer": lambda cache: cache.get_seq_length(5),
    "largest": lambda cache: cache.get_max_cache_shape(),
    "number of layers": len,
    "item": lambda cache: cache[1],
    "items": list,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_dynamic_cache(change: Any) -> None:
    both = on_both(dynamic, change)
    assert_same(*both.answers)
    assert_same(cache_layers(both.ours), cache_layers(both.theirs))


PAIR_CHANGES = {
    name: change for name, change in CHANGES.items() if name not in ("extend", "add a layer", "length of no layer")
}


@pytest.mark.parametrize("change", PAIR_CHANGES.values(), ids=PAIR_CHANGES.keys())
def test_encoder_decoder_cache(change: Any) -> None:
    both = on_both(encoder_decoder, change)
    assert_same(*both.answers)
    assert_same(cache_layers(both.ours), cache_layers(both.theirs))
    assert both.ours.is_updated == both.theirs.is_updated


@pytest.mark.parametrize("kind", ["DynamicCache", "EncoderDecoderCache"])
def test_the_legacy_format_and_back(kind: str) -> None:
    make = dynamic if kind == "DynamicCache" else encoder_decoder
    legacy = make(quintet).to_legacy_cache()
    both = [getattr(library, kind).from_legacy_cache(legacy) for library in LIBRARIES]
    assert_same(cache_layers(both[0]), cache_layers(both[1]))
    assert_same(both[0].to_legacy_cache(), legacy)
    if kind == "EncoderDecoderCache":
        assert both[0].is_updated == both[1].is_updated == {0: True, 1: True}


def test_an_empty_encoder_decoder_cache() -> None:
    for library in LIBRARIES:
        cache = library.EncoderDecoderCache(library.DynamicCache(), library.DynamicCache())
        assert cache.get_seq_length() == 0
        assert len(cache) == 0
        assert cache.is_updated == {}
        assert cache.to_legacy_cache() == ()


def test_a_filled_cross_cache_counts_as_updated() -> None:
    for library in LIBRARIES:
        assert encoder_decoder(library).is_updated == {0: True, 1: True}
        assert library.EncoderDecoderCache(dynamic(library), library.DynamicCache()).is_updated == {}


@pytest.mark.parametrize("arguments", [(), (1, 2), ("a", "b"), (None, None, None)])
def test_an_encoder_decoder_cache_takes_two_caches(arguments: tuple[Any, ...]) -> None:
    for library in LIBRARIES:
        with pytest.raises((TypeError, ValueError)):
            library.EncoderDecoderCache(*arguments)


@pytest.mark.parametrize("kind", ["DynamicCache", "EncoderDecoderCache"])
def test_a_layer_that_is_not_there(kind: str) -> None:
    make = dynamic if kind == "DynamicCache" else encoder_decoder
    for library in LIBRARIES:
        with pytest.raises(KeyError, match=r"2"):
            make(library)[2]


def test_static_cache_writes_where_it_is_told() -> None:
    def fill(cache: Any) -> list[Any]:
        answers = [cache.update(*states(3), 0, {"cache_position": torch.arange(3)})]
        answers.append(cache.update(*states(1), 0, {"cache_position": torch.tensor([3])}))
        answers.append(cache.update(*states(3, 1), 1, {"cache_position": torch.arange(3)}))
        return [tuple(tensor.clone() for tensor in answer) for answer in answers]

    both = on_both(static, fill)
    assert_same(*both.answers)
    assert int(both.ours.get_seq_length()) == int(both.theirs.get_seq_length()) == 4
    assert both.ours.get_max_cache_shape() == both.theirs.get_max_cache_shape() == 6
    assert both.ours.max_cache_len == both.theirs.max_cache_len == 6
    assert len(both.ours) == len(both.theirs) == 2


def test_static_cache_reorders_and_resets() -> None:
    def fill(cache: Any) -> Any:
        for layer in range(2):
            cache.update(*states(3, layer), layer, {"cache_position": torch.arange(3)})
        cache.reorder_cache(torch.tensor([2, 2, 1]))
        layers = tuple(tuple(tensor.clone() for tensor in cache[layer]) for layer in range(2))
        cache.reset()
        return layers

    both = on_both(static, fill)
    assert_same(*both.answers)
    assert int(both.ours.get_seq_length()) == 0
    assert all((tensor == 0).all() for layer in cache_layers(both.ours) for tensor in layer)


def test_a_growing_cache_is_empty_after_a_reset() -> None:
    """The reference fills it with zeros and keeps its length, so nothing can be decoded with it again."""
    cache = encoder_decoder(quintet)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert not any(cache.is_updated.values())
    keys, values = states(2)
    for part in (cache.self_attention_cache, cache.cross_attention_cache):
        assert_same(part.update(keys, values, 0), (keys, values), tolerance=0)


def test_static_cache_keeps_its_memory() -> None:
    cache = static(quintet)
    first, _ = cache.update(*states(3), 0, {"cache_position": torch.arange(3)})
    second, _ = cache.update(*states(1), 0, {"cache_position": torch.tensor([3])})
    assert first.data_ptr() == second.data_ptr()
    assert first.shape == (3, 2, 6, 4)


def test_a_static_cache_cannot_be_cropped() -> None:
    for library in LIBRARIES:
        cache = library.EncoderDecoderCache(static(library), static(library))
        with pytest.raises(ValueError, match="crop"):
            cache.crop(1)


def test_rows_of_a_static_cache_can_be_moved() -> None:
    """The reference refuses to; as moving rows keeps every length, there is nothing against it."""
    cache = static(quintet)
    keys, values = states(3)
    cache.update(keys, values, 0, {"cache_position": torch.arange(3)})
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([5, 1, 0]))
    assert_same(tuple(part[:, :, :3] for part in cache[0]), (keys[[2, 0, 0]], values[[2, 0, 0]]), tolerance=0)
    assert int(cache.get_seq_length()) == 3


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "6", None])
def test_a_static_cache_holds_at_least_one_token(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_cache_len"):
        static(quintet, wrong)
    cache = static(quintet, 1)
    cache.update(*states(1), 0, {"cache_position": torch.tensor([0])})
    assert int(cache.get_seq_length()) == 1
