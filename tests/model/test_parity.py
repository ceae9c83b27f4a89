"""Every head of every variant gives the reference's numbers: eager within 1e-5, sdpa within 1e-4."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import quintet

from .reference import (
    HEADS,
    VARIANTS,
    Pair,
    all_outputs,
    assert_same,
    build,
    config_values,
    make_batch,
    make_pair,
    shared_pair,
    without_padding,
)

PADDINGS = ("none", "right", "left")


def run(pair: Pair, batch: dict[str, Any], **arguments: Any) -> tuple[Any, Any]:
    with torch.no_grad():
        return pair.ours(**batch, **arguments), pair.theirs(**batch, **arguments)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_eager_agrees_in_everything_it_returns(head: str, variant: str, padding: str) -> None:
    ours, theirs = run(shared_pair(head, variant), make_batch(head, padding), **all_outputs(head))
    assert_same(ours, theirs)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_sdpa_agrees_in_everything_it_returns(head: str, variant: str, padding: str) -> None:
    batch = make_batch(head, padding)
    arguments = all_outputs(head, output_attentions=False)
    ours, theirs = run(shared_pair(head, variant, "sdpa"), batch, **arguments)
    if "decoder_attention_mask" in batch:
        mask = batch["decoder_attention_mask"]
        ours, theirs = without_padding(ours, mask), without_padding(theirs, mask)
    assert_same(ours, theirs, tolerance=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_sdpa_gives_the_attention_weights_it_is_asked_for(head: str, variant: str) -> None:
    ours, theirs = run(shared_pair(head, variant, "sdpa"), make_batch(head, "left"), **all_outputs(head))
    assert_same(ours, theirs)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "umt5"])
def test_sequences_far_longer_than_the_largest_distance(variant: str, backend: str) -> None:
    generator = torch.Generator().manual_seed(5)
    batch = {
        "input_ids": torch.randint(3, 99, (1, 90), generator=generator),
        "decoder_input_ids": torch.randint(3, 99, (1, 70), generator=generator),
    }
    ours, theirs = run(shared_pair("ForConditionalGeneration", variant, backend), batch)
    assert_same(ours.logits, theirs.logits, tolerance=1e-4)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_does_not_depend_on_its_padding_or_its_neighbours(variant: str, side: str, backend: str) -> None:
    """Alone and unpadded, a row gives what it gives inside a padded batch: independent of any reference."""
    model = shared_pair("ForConditionalGeneration", variant, backend).ours
    batch = make_batch("ForConditionalGeneration", side)
    with torch.no_grad():
        together = model(**batch).logits
        for row in range(3):
            source = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            real = batch["decoder_attention_mask"][row].bool()
            alone = model(input_ids=source[None], decoder_input_ids=batch["decoder_input_ids"][row][real][None]).logits
            torch.testing.assert_close(together[row][real], alone[0], atol=1e-4, rtol=1e-4)


class Spy(TorchFunctionMode):
    """Counts the calls of torch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += function is functional.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("backend", "output_attentions", "fused"), [("eager", False, False), ("sdpa", False, True), ("sdpa", True, False)]
)
def test_the_backend_that_was_asked_for_runs(backend: str, output_attentions: bool, fused: bool) -> None:
    model = shared_pair("ForConditionalGeneration", "t5", backend).ours
    with torch.no_grad(), Spy() as spy:
        model(**make_batch("ForConditionalGeneration"), output_attentions=output_attentions)
    assert bool(spy.calls) is fused
    assert model.config._attn_implementation == backend


@pytest.mark.parametrize("head", ["EncoderModel", "ForConditionalGeneration"])
def test_the_default_backend_is_sdpa(head: str) -> None:
    config = quintet.T5Config(**config_values(head, "t5"))
    with torch.no_grad(), Spy() as spy:
        model = getattr(quintet, f"T5{head}")(config).eval()
        model.engine = "eager"
        model(**make_batch(head))
    assert spy.calls


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nonsense") as caught:
        build(quintet, "EncoderModel", "t5", backend="nonsense")
    assert "eager" in str(caught.value)
    assert "sdpa" in str(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_state_dicts_have_the_same_names_and_load_strictly_both_ways(head: str, variant: str) -> None:
    ours, theirs = build(quintet, head, variant), build(transformers, head, variant)
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_parameters_come_in_the_same_order(head: str, variant: str) -> None:
    """An optimiser's state is stored by parameter order, so a run started on the reference can continue here."""
    pair = shared_pair(head, variant)
    assert [name for name, _ in pair.ours.named_parameters()] == [name for name, _ in pair.theirs.named_parameters()]


@pytest.mark.parametrize("family", ["T5", "MT5", "UMT5"])
@pytest.mark.parametrize("head", HEADS)
def test_every_name_of_the_family_is_public(family: str, head: str) -> None:
    assert issubclass(getattr(quintet, f"{family}{head}"), torch.nn.Module)


@pytest.mark.parametrize(("variant", "tied"), [("t5", True), ("mt5", False), ("umt5-tied", True), ("v1.1", False)])
def test_logits_are_scaled_only_when_the_embeddings_are_tied(variant: str, tied: bool) -> None:
    pair = make_pair("ForConditionalGeneration", variant)
    batch = make_batch("ForConditionalGeneration")
    with torch.no_grad():
        outputs = pair.ours(**batch, output_hidden_states=True)
    scale = pair.ours.config.d_model**-0.5 if tied else 1.0
    expected = outputs.decoder_hidden_states[-1] * scale @ pair.ours.lm_head.weight.T
    torch.testing.assert_close(outputs.logits, expected, atol=1e-5, rtol=1e-5)
    assert (pair.ours.lm_head.weight is pair.ours.shared.weight) is tied


@pytest.mark.parametrize("first", HEADS)
def test_one_configuration_serves_several_models(first: str) -> None:
    """Building one model changes nothing for the next; the reference's encoders write into what they are given."""
    config = quintet.T5Config(**{**config_values("Model", "t5"), "num_labels": 2})
    before = config.to_dict()
    getattr(quintet, f"T5{first}")(config)
    assert config.to_dict() == before
    model = quintet.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        assert model(**make_batch("ForConditionalGeneration")).past_key_values is not None
