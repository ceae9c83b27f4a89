"""torch.compile takes a forward pass whole, with no graph break, and its numbers stay."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

import quintet

from .reference import ENCODER_ONLY, HEADS, TAKES_CACHE, assert_same, make_batch, make_labels, make_pair, shared_pair

# aot_eager traces, differentiates and checks mutation like the real backend, and generates no code.
BACKEND = "aot_eager"
BACKENDS = ("eager", "sdpa")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: Any) -> Any:
    return torch.compile(model, fullgraph=True, backend=BACKEND)


# Every head with the default backend; with the other, which the heads do not see, one of them in each run.
EVERYDAY = [*((head, "sdpa") for head in HEADS), ("ForConditionalGeneration", "eager")]
SWEEP = [case for case in product(HEADS, BACKENDS) if case not in EVERYDAY]


@pytest.mark.parametrize(
    ("head", "backend"), [*EVERYDAY, *(pytest.param(*case, marks=pytest.mark.sweep) for case in SWEEP)]
)
def test_a_forward_pass_is_one_graph(head: str, backend: str) -> None:
    model = shared_pair(head, "t5", backend).ours
    batch = make_batch(head, "left")
    uncached = {} if head in ENCODER_ONLY else {"use_cache": False}
    with torch.no_grad():
        assert_same(dict(compiled(model)(**batch, **uncached)), dict(model(**batch, **uncached)))


@pytest.mark.parametrize("variant", ["mt5", "umt5", "deep-decoder"])
def test_every_variant_is_one_graph(variant: str) -> None:
    model = shared_pair("ForConditionalGeneration", variant, "sdpa").ours
    batch = make_batch("ForConditionalGeneration")
    with torch.no_grad():
        ours = compiled(model)(**batch, use_cache=False).logits
        assert_same(ours, model(**batch, use_cache=False).logits)


@pytest.mark.parametrize("head", TAKES_CACHE)
def test_with_a_cache_of_its_own(head: str) -> None:
    model = shared_pair(head, "t5", "sdpa").ours
    batch = make_batch(head)
    with torch.no_grad():
        ours, plain = compiled(model)(**batch, use_cache=True), model(**batch, use_cache=True)
    assert isinstance(ours.past_key_values, quintet.EncoderDecoderCache)
    assert_same(ours, dict(plain))


@pytest.mark.parametrize("everything", [False, True])
def test_with_all_outputs(everything: bool) -> None:
    model = shared_pair("ForConditionalGeneration", "t5", "sdpa").ours
    arguments = {"output_hidden_states": everything, "output_attentions": everything, "use_cache": False}
    arguments["return_dict"] = everything
    batch = make_batch("ForConditionalGeneration")
    with torch.no_grad():
        ours, plain = compiled(model)(**batch, **arguments), model(**batch, **arguments)
    assert_same(tuple(ours.values()) if everything else ours, tuple(plain.values()) if everything else plain)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_decoding_steps(backend: str, kind: str) -> None:
    """The first pass runs eagerly, then each step is compiled; a static cache keeps every shape."""
    model = shared_pair("ForConditionalGeneration", "t5", backend).ours
    batch = make_batch("ForConditionalGeneration", "none")
    step = compiled(model)
    with torch.no_grad():
        whole = model(**batch, use_cache=False).logits
        cache = None
        if kind == "static":
            parts = (quintet.StaticCache(config=model.config, max_cache_len=length) for length in (10, 11))
            cache = quintet.EncoderDecoderCache(*parts)
        ids = batch["decoder_input_ids"]
        first = model(batch["input_ids"], decoder_input_ids=ids[:, :4], past_key_values=cache)
        states, cache = (first.encoder_last_hidden_state,), first.past_key_values
        for position in range(4, 8):
            outputs = step(
                encoder_outputs=states,
                decoder_input_ids=ids[:, position : position + 1],
                past_key_values=cache,
                cache_position=torch.tensor([position]),
            )
            torch.testing.assert_close(outputs.logits[:, 0], whole[:, position], atol=1e-4, rtol=1e-4)


def test_steps_with_a_static_cache_are_compiled_once() -> None:
    model = shared_pair("ForConditionalGeneration", "t5", "sdpa").ours
    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    step = torch.compile(model, fullgraph=True, backend=count)
    batch = make_batch("ForConditionalGeneration", "none")
    parts = (quintet.StaticCache(config=model.config, max_cache_len=length) for length in (10, 11))
    cache = quintet.EncoderDecoderCache(*parts)
    with torch.no_grad():
        first = model(batch["input_ids"], decoder_input_ids=batch["decoder_input_ids"][:, :2], past_key_values=cache)
        for position in range(2, 8):
            step(
                encoder_outputs=(first.encoder_last_hidden_state,),
                decoder_input_ids=batch["decoder_input_ids"][:, position : position + 1],
                past_key_values=cache,
                cache_position=torch.tensor([position]),
            )
    assert len(graphs) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_step(backend: str) -> None:
    model = make_pair("ForConditionalGeneration", "t5", backend, dropout_rate=0.0).ours.train()
    batch = make_batch("ForConditionalGeneration")
    arguments = {**batch, **make_labels("ForConditionalGeneration", batch), "use_cache": False}
    found = []
    for each in (model, compiled(model)):
        model.zero_grad()
        loss = each(**arguments).loss
        loss.backward()
        found.append((loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    assert_same(*found, tolerance=1e-4)


def test_lengths_may_change_without_a_break() -> None:
    model = shared_pair("EncoderModel", "t5", "sdpa").ours
    one_graph = torch.compile(model, fullgraph=True, backend=BACKEND, dynamic=True)
    with torch.no_grad():
        for length in (5, 9, 17, 30):
            ids = torch.arange(3, 3 + length)[None]
            assert_same(one_graph(ids).last_hidden_state, model(ids).last_hidden_state)
