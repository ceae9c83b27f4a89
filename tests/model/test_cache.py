"""Decoding with a cache gives what decoding without one gives, however the target is cut up and whatever the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from .reference import (
    TAKES_CACHE,
    VARIANTS,
    WITH_DECODER,
    assert_same,
    cache_layers,
    make_batch,
    make_pair,
    shared_pair,
)

CUTS = {"token by token": (1,) * 8, "prefix, then several": (3, 4, 1), "all at once, then one": (7, 1)}


def cached_batch(head: str, padding: str) -> dict[str, Tensor]:
    """Left: source and target are padded on the left. Right: only the source is padded, as when text is generated."""
    batch = make_batch(head, padding)
    if padding == "right":
        batch |= {name: value for name, value in make_batch(head, "none").items() if name == "decoder_input_ids"}
        del batch["decoder_attention_mask"]
    return batch


@torch.no_grad()
def decode(model: Any, batch: dict[str, Tensor], cuts: Sequence[int], cache: Any = None) -> tuple[Tensor, Any]:
    """Feeds the decoder piece by piece, the source only once; returns the joined first outputs and the last cache."""
    ids, mask = batch["decoder_input_ids"], batch.get("decoder_attention_mask")
    source = {name: value for name, value in batch.items() if not name.startswith("decoder")}
    pieces, end = [], 0
    for cut in cuts:
        start, end = end, end + cut
        seen = {} if mask is None else {"decoder_attention_mask": mask[:, :end]}
        outputs = model(**source, **seen, decoder_input_ids=ids[:, start:end], past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        pieces.append(outputs[0])
        source = {"encoder_outputs": (outputs.encoder_last_hidden_state,)} | {
            name: value for name, value in source.items() if name == "attention_mask"
        }
    return torch.cat(pieces, dim=1), cache


@torch.no_grad()
def whole(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch, use_cache=False)[0]


def assert_close_where_real(ours: Tensor, theirs: Tensor, batch: dict[str, Tensor], tolerance: float) -> None:
    mask = batch.get("decoder_attention_mask")
    rows = 1 if mask is None else mask[:, :, None]
    torch.testing.assert_close(ours * rows, theirs * rows, atol=tolerance, rtol=tolerance)


def make_cache(library: Any, kind: str, model: Any) -> Any:
    """An empty cache of a kind, for a source of 11 tokens and a target of up to 10."""
    if kind == "none given":
        return None
    if kind == "static":
        lengths = (10, 11)
        return library.EncoderDecoderCache(
            *(library.StaticCache(config=model.config, max_cache_len=length) for length in lengths)
        )
    given = {"config": model.config} if kind == "dynamic for a configuration" else {}
    return library.EncoderDecoderCache(library.DynamicCache(**given), library.DynamicCache(**given))


CACHES = ("none given", "dynamic", "dynamic for a configuration", "static")


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_decoding_is_uncached_decoding(
    variant: str, backend: str, kind: str, cuts: tuple[int, ...], padding: str
) -> None:
    """Against the reference uncached: it has no cache for the configuration of a decoder deeper than its encoder."""
    pair = shared_pair("ForConditionalGeneration", variant, backend)
    batch = cached_batch("ForConditionalGeneration", padding)
    ours, cache = decode(pair.ours, batch, cuts, make_cache(quintet, kind, pair.ours))
    tolerance = 1e-5 if backend == "eager" else 1e-4
    assert_close_where_real(ours, whole(pair.theirs, batch), batch, tolerance)
    assert cache.get_seq_length() == 8
    assert len(cache) == VARIANTS[variant].decoder_layers


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_headless_model_caches_too(variant: str, padding: str) -> None:
    pair = shared_pair("Model", variant)
    batch = cached_batch("Model", padding)
    ours, _ = decode(pair.ours, batch, (2, 1, 5))
    assert_close_where_real(ours, whole(pair.theirs, batch), batch, 1e-5)


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cache_holds_what_the_reference_s_holds(variant: str, padding: str, kind: str) -> None:
    """The reference makes a cache for a configuration with the encoder's depth: too deep or not deep enough."""
    if variant == "deep-decoder" and kind in ("static", "dynamic for a configuration"):
        pytest.skip("the reference raises IndexError")
    pair = shared_pair("ForConditionalGeneration", variant)
    batch = cached_batch("ForConditionalGeneration", padding)
    ours, theirs = (
        decode(model, batch, (3, 1, 1, 3), make_cache(library, kind, model))[1]
        for model, library in zip(pair, (quintet, transformers), strict=True)
    )
    depth = VARIANTS[variant].decoder_layers
    assert_same(cache_layers(ours), cache_layers(theirs)[:depth])
    assert ours.is_updated == dict.fromkeys(range(depth), True)


@pytest.mark.parametrize("head", WITH_DECODER)
def test_caches_are_quintet_s_own(head: str) -> None:
    with torch.no_grad():
        cache = shared_pair(head).ours(**make_batch(head), use_cache=True).past_key_values
    assert isinstance(cache, quintet.EncoderDecoderCache)
    assert isinstance(cache.self_attention_cache, quintet.DynamicCache)
    assert isinstance(cache.cross_attention_cache, quintet.DynamicCache)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("head", TAKES_CACHE)
def test_a_cache_that_is_passed_in_comes_back(head: str, kind: str) -> None:
    model = shared_pair(head).ours
    cache = make_cache(quintet, kind, model)
    with torch.no_grad():
        outputs = model(**make_batch(head), past_key_values=cache)
    assert outputs.past_key_values is cache


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "umt5"])
def test_the_source_is_projected_once(variant: str, backend: str, kind: str) -> None:
    """After the first step cross-attention reads the cache: other encoder states change nothing."""
    model = shared_pair("ForConditionalGeneration", variant, backend).ours
    batch = make_batch("ForConditionalGeneration", "none")
    head_ids, tail_ids = batch["decoder_input_ids"].split([5, 3], dim=1)
    results = []
    with torch.no_grad():
        for factor in (1, 0):
            first = model(
                batch["input_ids"], decoder_input_ids=head_ids, past_key_values=make_cache(quintet, kind, model)
            )
            states = first.encoder_last_hidden_state * factor
            step = {"decoder_input_ids": tail_ids, "past_key_values": first.past_key_values}
            results.append(model(encoder_outputs=(states,), **step).logits)
    assert torch.equal(*results)


@pytest.mark.parametrize("output_attentions", [False, True])
@pytest.mark.parametrize("variant", ["t5", "umt5"])
def test_a_step_returns_the_reference_s_attentions_and_states(variant: str, output_attentions: bool) -> None:
    batch = make_batch("ForConditionalGeneration", "left")
    ids, mask = batch["decoder_input_ids"], batch["decoder_attention_mask"]
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    results = []
    with torch.no_grad():
        for model in shared_pair("ForConditionalGeneration", variant):
            first = model(**source, decoder_input_ids=ids[:, :6], decoder_attention_mask=mask[:, :6])
            results.append(
                model(
                    **source,
                    decoder_input_ids=ids[:, 6:],
                    decoder_attention_mask=mask,
                    past_key_values=first.past_key_values,
                    output_attentions=output_attentions,
                    output_hidden_states=True,
                )
            )
    assert_same(*results)


CHANGES = {
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([2, 0])), [2, 0]),
}


@pytest.mark.parametrize(("change", "rows"), CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_a_cache_can_be_moved(variant: str, change: Any, rows: list[int]) -> None:
    """The moved cache goes on as if those rows had been decoded from the start."""
    pair = shared_pair("ForConditionalGeneration", variant)
    batch = cached_batch("ForConditionalGeneration", "left")
    start = {name: value[:, :5] if name.startswith("decoder") else value for name, value in batch.items()}
    _, cache = decode(pair.ours, start, (5,))
    change(cache)
    moved = {name: value[rows] for name, value in batch.items()}
    with torch.no_grad():
        states = pair.ours.get_encoder()(moved["input_ids"], attention_mask=moved["attention_mask"])
        after = pair.ours(
            encoder_outputs=states,
            attention_mask=moved["attention_mask"],
            decoder_input_ids=moved["decoder_input_ids"][:, 5:],
            decoder_attention_mask=moved["decoder_attention_mask"],
            past_key_values=cache,
        )
    rest = {"decoder_attention_mask": moved["decoder_attention_mask"][:, 5:]}
    assert_close_where_real(after.logits, whole(pair.theirs, moved)[:, 5:], rest, 1e-5)


@pytest.mark.parametrize("length", [3, -2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cropped_cache_forgets_the_end(variant: str, length: int) -> None:
    pair = shared_pair("ForConditionalGeneration", variant)
    batch = make_batch("ForConditionalGeneration", "none")
    start = {name: value[:, :5] if name.startswith("decoder") else value for name, value in batch.items()}
    _, cache = decode(pair.ours, start, (5,))
    cache.crop(length)
    assert cache.get_seq_length() == 3
    with torch.no_grad():
        after = pair.ours(
            batch["input_ids"], decoder_input_ids=batch["decoder_input_ids"][:, 3:], past_key_values=cache
        )
    torch.testing.assert_close(after.logits, whole(pair.theirs, batch)[:, 3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cache_survives_the_legacy_format(variant: str) -> None:
    pair = shared_pair("ForConditionalGeneration", variant)
    batch = make_batch("ForConditionalGeneration", "none")
    start = {name: value[:, :5] if name.startswith("decoder") else value for name, value in batch.items()}
    _, cache = decode(pair.ours, start, (5,))
    again = quintet.EncoderDecoderCache.from_legacy_cache(cache.to_legacy_cache())
    with torch.no_grad():
        after = pair.ours(
            batch["input_ids"], decoder_input_ids=batch["decoder_input_ids"][:, 5:], past_key_values=again
        )
    torch.testing.assert_close(after.logits, whole(pair.theirs, batch)[:, 5:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5"])
def test_cached_decoding_in_half_precision(variant: str, backend: str, dtype: torch.dtype) -> None:
    model = make_pair("ForConditionalGeneration", variant, backend).ours.to(dtype)
    batch = cached_batch("ForConditionalGeneration", "right")
    exact = whole(model, batch)
    for kind in CACHES:
        logits, cache = decode(model, batch, (2, 1, 5), make_cache(quintet, kind, model))
        error = (logits - exact).float().square().mean().sqrt() / exact.float().std()
        assert error < (2e-2 if dtype == torch.bfloat16 else 3e-3), kind
        assert {tensor.dtype for layer in cache_layers(cache) for tensor in layer} == {dtype}


def test_a_static_cache_can_be_reset_and_used_again() -> None:
    pair = shared_pair("ForConditionalGeneration")
    batch = cached_batch("ForConditionalGeneration", "right")
    cache = make_cache(quintet, "static", pair.ours)
    other = {**batch, "input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    decode(pair.ours, other, (8,), cache)
    buffers = [tensor.data_ptr() for layer in cache_layers(cache) for tensor in layer]
    cache.reset()
    again, _ = decode(pair.ours, batch, (3, 5), cache)
    torch.testing.assert_close(again, whole(pair.theirs, batch), atol=1e-5, rtol=1e-5)
    assert [tensor.data_ptr() for layer in cache_layers(cache) for tensor in layer] == buffers


def test_more_tokens_than_a_static_cache_holds_are_refused() -> None:
    model = shared_pair("ForConditionalGeneration").ours
    batch = cached_batch("ForConditionalGeneration", "right")
    caches = (quintet.StaticCache(config=model.config, max_cache_len=length) for length in (6, 11))
    with pytest.raises((ValueError, IndexError), match=r"6"):
        decode(model, batch, (5, 3), quintet.EncoderDecoderCache(*caches))
