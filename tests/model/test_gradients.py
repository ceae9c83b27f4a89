"""Losses and the gradient of every parameter agree within 1e-4; dropout falls in the same places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from quintet.model.norm import RMSNorm

from .reference import HEADS, VARIANTS, WITH_DECODER, Pair, assert_same, make_batch, make_labels, make_pair


def training_batch(head: str, padding: str = "right") -> dict[str, Any]:
    """A batch with labels; the decoder of a labelled batch reads the shifted labels."""
    batch: dict[str, Any] = make_batch(head, padding)
    labels = make_labels(head, batch)
    if head == "ForConditionalGeneration":
        batch = {name: value for name, value in batch.items() if not name.startswith("decoder")}
    uncached = {"use_cache": False} if head in WITH_DECODER else {}
    return {**batch, **labels, **uncached}


def loss_of(outputs: Any) -> Tensor:
    """The loss, or for the headless models some number that depends on every output differently."""
    if outputs.get("loss") is not None:
        return outputs.loss
    states = outputs.last_hidden_state
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    return (states * weights).mean()


def gradients(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor | None]]:
    model.zero_grad()
    loss = loss_of(model(**batch))
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return loss.detach(), found


def assert_same_gradients(ours: Any, theirs: Any, tolerance: float = 1e-4) -> None:
    (our_loss, our_gradients), (their_loss, their_gradients) = ours, theirs
    torch.testing.assert_close(our_loss, their_loss, rtol=tolerance, atol=0)
    assert list(our_gradients) == list(their_gradients)
    # Some gradients are zero but for rounding: a bias that only shifts what softmax ignores.
    floor = 1e-6 * max(gradient.norm() for gradient in their_gradients.values() if gradient is not None)
    for name, expected in their_gradients.items():
        given = our_gradients[name]
        assert (given is None) is (expected is None), name
        if expected is not None:
            difference = (given - expected).norm()
            assert difference <= tolerance * expected.norm() + floor, f"{name}: {difference} of {expected.norm()}"


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_losses_and_gradients_agree(head: str, variant: str, backend: str, padding: str) -> None:
    pair = make_pair(head, variant, backend, dropout_rate=0.0)
    batch = training_batch(head, padding)
    if padding == "left" and "decoder_attention_mask" in batch:
        # What a query that sees nothing answers is a backend's own business, and so is its gradient.
        del batch["decoder_attention_mask"]
    ours, theirs = (gradients(model.train(), batch) for model in pair)
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5"])
def test_gradients_reach_the_embeddings_that_were_passed_in(variant: str, backend: str) -> None:
    pair = make_pair("ForConditionalGeneration", variant, backend, dropout_rate=0.0)
    generator = torch.Generator().manual_seed(3)
    found = []
    for model in pair:
        generator.manual_seed(3)
        source, target = (torch.randn(2, n, 32, generator=generator, requires_grad=True) for n in (7, 5))
        labels = torch.arange(10).view(2, 5)
        model.train()(inputs_embeds=source, decoder_inputs_embeds=target, labels=labels).loss.backward()
        found.append((source.grad, target.grad))
    assert_same(*found, tolerance=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norms_gradient_and_its_gradient(dtype: torch.dtype) -> None:
    """Against autograd's own, through the definition; with half-precision weights, and for penalties on gradients."""
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(3, 4, 16, generator=generator).to(dtype).requires_grad_()
    norm = RMSNorm(16, 1e-6).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(16, generator=generator))
    weighting = torch.randn(3, 4, 16, generator=generator)

    def derivatives(output: Tensor) -> list[Tensor]:
        given = (hidden, norm.weight)
        first = torch.autograd.grad((output * weighting).sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(one.float().square().sum() for one in first), given)
        return [one.float() for one in (*first, *second)]

    states = hidden.float()
    defined = norm.weight * (states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()).to(dtype)
    torch.testing.assert_close(norm(hidden), defined)
    for ours, wanted in zip(derivatives(norm(hidden)), derivatives(defined), strict=True):
        assert (ours - wanted).norm() < (1e-5 if dtype == torch.float32 else 0.02) * wanted.norm()


@pytest.mark.parametrize("has_zeros", [False, True])
def test_gradients_of_a_norm_whose_result_is_cast(has_zeros: bool) -> None:
    """Under autocast they are made from the rounded result, unless a weight of 0 has left nothing of it there."""
    generator = torch.Generator().manual_seed(6)
    hidden, weighting = (torch.randn(3, 4, 64, generator=generator) for _ in range(2))
    norm = RMSNorm(64, 1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(64, generator=generator))
        if has_zeros:
            norm.weight[::3] = 0
    hidden.requires_grad_()
    defined = norm.weight * hidden / (hidden.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    result = norm(hidden, torch.bfloat16)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, defined.bfloat16())
    given = (hidden, norm.weight)
    found = torch.autograd.grad((result.float() * weighting).sum(), given)
    for ours, wanted in zip(found, torch.autograd.grad((defined * weighting).sum(), given), strict=True):
        assert (ours - wanted).norm() < 0.005 * wanted.norm()


class Dropouts(TorchFunctionMode):
    """Records the dropouts that act, as (shape, probability)."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[tuple[int, ...], float]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.dropout:
            names = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            if names.get("training", True) and names["p"] > 0:
                self.places.append((tuple(names["input"].shape), names["p"]))
        return function(*args, **kwargs)


def saved_for_backward(model: nn.Module, batch: dict[str, Any]) -> int:
    """How many numbers a forward pass keeps for the backward pass."""
    sizes = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch)
    return sum(sizes)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5", "deep-decoder"])
@pytest.mark.parametrize("head", HEADS)
def test_gradient_checkpointing_changes_no_number(head: str, variant: str, backend: str) -> None:
    model = make_pair(head, variant, backend, dropout_rate=0.0).ours.train()
    batch = training_batch(head)
    plain = gradients(model, batch)
    saved = saved_for_backward(model, batch)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    assert_same_gradients(gradients(model, batch), plain)
    assert saved_for_backward(model, batch) < saved / 2
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert saved_for_backward(model, batch) == saved


def test_gradient_checkpointing_takes_the_reference_s_keyword_arguments() -> None:
    model = make_pair("ForConditionalGeneration", dropout_rate=0.0).ours.train()
    batch = training_batch("ForConditionalGeneration")
    plain = gradients(model, batch)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same_gradients(gradients(model, batch), plain)


def test_gradient_checkpointing_repeats_the_same_dropout() -> None:
    model = make_pair("ForConditionalGeneration", dropout_rate=0.3).ours.train()
    batch = training_batch("ForConditionalGeneration")
    torch.manual_seed(7)
    plain = gradients(model, batch)
    model.gradient_checkpointing_enable()
    torch.manual_seed(7)
    assert_same_gradients(gradients(model, batch), plain)


def test_gradient_checkpointing_without_labels_returns_no_cache() -> None:
    model = make_pair("ForConditionalGeneration").ours.train()
    model.gradient_checkpointing_enable()
    assert model(**make_batch("ForConditionalGeneration")).past_key_values is None


def dropouts(model: nn.Module, batch: dict[str, Any]) -> list[tuple[tuple[int, ...], float]]:
    with Dropouts() as found, torch.no_grad():
        model(**batch)
    return found.places


@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5", "deep-decoder"])
@pytest.mark.parametrize("head", HEADS)
def test_dropout_falls_in_the_same_places(head: str, variant: str) -> None:
    """Embeddings, attention weights, feed-forward inner, each residual branch, final norm; the heads have their own."""
    pair = make_pair(head, variant, dropout_rate=0.25, classifier_dropout=0.4)
    batch = training_batch(head)
    ours, theirs = (dropouts(model.train(), batch) for model in pair)
    assert sorted(ours) == sorted(theirs)
    assert theirs
    assert dropouts(pair.ours.eval(), batch) == []


@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5", "deep-decoder"])
@pytest.mark.parametrize("head", HEADS)
def test_training_with_dropout_is_the_reference_s_under_the_same_seed(head: str, variant: str) -> None:
    pair = make_pair(head, variant, dropout_rate=0.25, classifier_dropout=0.4)
    batch = training_batch(head)
    results = []
    for model in pair:
        torch.manual_seed(11)
        results.append(gradients(model.train(), batch))
    assert_same_gradients(*results)


class FusedDropouts(TorchFunctionMode):
    """Records the dropout probability of each fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.probabilities: set[float] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            names = dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args, strict=False)) | kwargs
            self.probabilities.add(names.get("dropout_p", 0.0))
        return function(*args, **kwargs)


@pytest.mark.parametrize(("training", "expected"), [(True, 0.25), (False, 0.0)])
def test_sdpa_drops_attention_weights_in_training_only(training: bool, expected: float) -> None:
    model = make_pair("ForConditionalGeneration", "t5", "sdpa", dropout_rate=0.25).ours.train(training)
    with FusedDropouts() as found, torch.no_grad():
        model(**training_batch("ForConditionalGeneration"))
    assert found.probabilities == {expected}


def steps(model: nn.Module, batch: dict[str, Any]) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(model(**batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5"])
def test_five_training_steps_stay_together(variant: str) -> None:
    pair: Pair = make_pair("ForConditionalGeneration", variant, dropout_rate=0.0)
    batch = training_batch("ForConditionalGeneration")
    ours, theirs = (steps(model.train(), batch) for model in pair)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[-1] < ours[0]
