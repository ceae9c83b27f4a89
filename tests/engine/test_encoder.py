"""The encoder alone on the native engine gives what the model's own layers give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quintet.engine import Library
from tests.engine.models import eager, make_model, random_ids, relative_error
from tests.model.reference import SIZES, VARIANTS, make_batch


def make_encoder(variant: str = "t5", **changes: Any) -> Any:
    return make_model(variant, "EncoderModel", **changes)


@pytest.fixture(autouse=True)
def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sources each call of the native encoder read."""
    calls: list[int] = []
    encode = Library.encode

    def counted(self: Library, *arguments: Any) -> None:
        calls.append(arguments[-2])
        encode(self, *arguments)

    monkeypatch.setattr(Library, "encode", counted)
    return calls


@torch.no_grad()
def states_of(model: Any, engine: str, **inputs: Any) -> torch.Tensor:
    if engine == "auto":
        return model(**inputs).last_hidden_state
    with eager(model):
        return model(**inputs).last_hidden_state


def check(model: Any, calls: list[int], tolerance: float = 1e-5, **inputs: Any) -> torch.Tensor:
    """All states are the same, those of padding too, and native code computed one of the two."""
    before = len(calls)
    native = states_of(model, "auto", **inputs)
    assert len(calls) == before + 1
    own = states_of(model, "eager", **inputs)
    assert len(calls) == before + 1
    assert native.dtype == own.dtype
    assert native.shape == own.shape
    error = relative_error(native, own)
    assert error < tolerance, f"{error:.1e} off"
    return native


@pytest.mark.parametrize("padding", ["right", "left", "none"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(native_calls: list[int], variant: str, padding: str) -> None:
    check(make_encoder(variant), native_calls, **make_batch("EncoderModel", padding))
    assert native_calls == [3]


def test_instruction_sets(isa: str, native_calls: list[int]) -> None:
    model = make_encoder("v1.1", d_model=33, d_kv=5, num_heads=3, d_ff=51)
    for padding in ("right", "left", "none"):
        check(model, native_calls, **make_batch("EncoderModel", padding))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 33, 100])
def test_lengths(isa: str, native_calls: list[int], length: int) -> None:
    ids = torch.randint(3, 99, (2, length), generator=torch.Generator().manual_seed(length))
    check(make_encoder(num_layers=1), native_calls, input_ids=ids)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 17, 48, 100])
@pytest.mark.parametrize("d_kv", [5, 32])
def test_attention_in_bfloat16(isa: str, native_calls: list[int], length: int, d_kv: int) -> None:
    """Attention of rounded queries, keys, values and weights, beside the same weights in float64."""
    model = make_encoder("umt5", d_kv=d_kv, num_heads=3, num_layers=1).bfloat16()
    inputs = {"input_ids": random_ids(3, length), "attention_mask": torch.ones(3, length, dtype=torch.long)}
    inputs["attention_mask"][1, length // 2 + 1 :] = 0
    inputs["attention_mask"][2, 1:-1:3] = 0
    native = model(**inputs).last_hidden_state
    assert native_calls == [3]
    exact = model.double()(**inputs).last_hidden_state
    assert native_calls == [3]
    assert relative_error(native, exact) < 0.02


def test_holes_in_the_mask(isa: str, native_calls: list[int]) -> None:
    batch = make_batch("EncoderModel", "none")
    batch["attention_mask"] = (torch.arange(33).reshape(3, 11) % 4 != 1).long()
    check(make_encoder("umt5"), native_calls, **batch)


def test_states_of_padding(native_calls: list[int]) -> None:
    """A row of one token and 39 of padding: each of them sees that token only, from its own place."""
    ids = torch.randint(3, 99, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 40, dtype=torch.long)
    mask[0, 0] = mask[1, 39] = 1
    states = check(make_encoder(), native_calls, input_ids=ids, attention_mask=mask)
    assert states.std(dim=1).min() > 0  # no row of copies


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32])
def test_masks_of_other_types(native_calls: list[int], kind: torch.dtype) -> None:
    batch = make_batch("EncoderModel")
    batch["attention_mask"] = batch["attention_mask"].to(kind)
    check(make_encoder(), native_calls, **batch)


def test_embeddings_instead_of_ids(isa: str, native_calls: list[int]) -> None:
    model, batch = make_encoder(), make_batch("EncoderModel")
    with torch.no_grad():
        embeds = model.get_input_embeddings()(batch["input_ids"])
    mask = batch["attention_mask"]
    ours = check(model, native_calls, inputs_embeds=embeds, attention_mask=mask)
    torch.testing.assert_close(ours, states_of(model, "auto", input_ids=batch["input_ids"], attention_mask=mask))
    # What a transposition left: the same numbers, in another order in memory.
    spread = embeds.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(check(model, native_calls, inputs_embeds=spread, attention_mask=mask), ours)


def test_a_long_source(isa: str, native_calls: list[int]) -> None:
    ids = torch.randint(3, 99, (2, 1500), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(1500) < torch.tensor([[1500], [700]])).long()
    check(
        make_encoder(num_layers=1, relative_attention_max_distance=128),
        native_calls,
        input_ids=ids,
        attention_mask=mask,
    )


def test_heads_that_read_no_embedding_of_their_own(native_calls: list[int]) -> None:
    """The encoder of a model with a decoder, tied embeddings and all."""
    model, batch = make_model("umt5-tied"), make_batch("EncoderModel")
    with torch.no_grad():
        native = model.generate(**batch, max_new_tokens=5, min_new_tokens=5)
        assert native_calls == [3]
        with eager(model):
            assert torch.equal(native, model.generate(**batch, max_new_tokens=5, min_new_tokens=5))


def test_bfloat16(isa: str, native_calls: list[int]) -> None:
    """Of one rounded model: native code rounds less on the way, so its states lie nearer to those of float32."""
    model, batch = make_encoder("v1.1").to(torch.bfloat16), make_batch("EncoderModel")
    states = check(model, native_calls, 0.05, **batch)
    assert states.dtype == torch.bfloat16
    own = states_of(model, "eager", **batch).float()
    exact = states_of(model.float(), "eager", **batch)
    assert (states.float() - exact).abs().mean() < (own - exact).abs().mean()


def test_gradients_need_the_layers_themselves(native_calls: list[int]) -> None:
    model, batch = make_encoder(), make_batch("EncoderModel")
    states = model(**batch).last_hidden_state
    assert states.grad_fn is not None
    states.sum().backward()
    assert model.get_input_embeddings().weight.grad is not None
    assert native_calls == []


def test_frozen_models_need_no_gradients_but_those_of_their_input(native_calls: list[int]) -> None:
    model, batch = make_encoder().requires_grad_(False), make_batch("EncoderModel")
    assert model(**batch).last_hidden_state.grad_fn is None
    assert native_calls == [3]
    embeds = torch.randn(1, 4, SIZES["d_model"], requires_grad=True)
    model(inputs_embeds=embeds).last_hidden_state.sum().backward()
    assert embeds.grad is not None
    assert native_calls == [3]


@pytest.mark.parametrize("wanted", ["output_attentions", "output_hidden_states"])
def test_what_only_the_layers_can_give(native_calls: list[int], wanted: str) -> None:
    model = make_encoder()
    with torch.no_grad():
        output = model(**make_batch("EncoderModel"), **{wanted: True})
    assert len(output[wanted.removeprefix("output_")]) >= SIZES["num_layers"]
    assert native_calls == []


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"input_ids": torch.tensor([[5, 99]])}, IndexError, "input_ids"),
        ({"input_ids": torch.tensor([[5, -1]])}, IndexError, "input_ids"),
        (
            {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 4).long()},
            ValueError,
            "attention_mask",
        ),
        ({"inputs_embeds": torch.zeros(2, 3, 31)}, ValueError, "inputs_embeds"),
        ({}, ValueError, "input_ids"),
    ],
)
def test_refusals_are_those_of_the_model(inputs: dict[str, Any], error: type[Exception], message: str) -> None:
    model, said = make_encoder(), []
    for engine in ("auto", "eager"):
        with pytest.raises(error, match=message) as raised:
            states_of(model, engine, **inputs)
        said.append(str(raised.value))
    assert said[0] == said[1]
