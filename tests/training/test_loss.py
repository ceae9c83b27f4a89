"""The fused loss beside torch's own cross-entropy over all scores at once, and beside the reference's models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.trainer_pt_utils import LabelSmoother

from quintet.model import products
from quintet.model.init import Linear
from quintet.training import loss as fused
from quintet.training.loss import projected_cross_entropy, text_to_text_loss

from ..model.reference import make_batch, make_labels, make_pair

VOCABULARY, WIDTH = 37, 8
SETTINGS = [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.2, 1e-2)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that every test goes through several chunks and a last one that is not full: here four tokens, two of
    whose losses are computed together."""
    monkeypatch.setattr(fused, "SCORES_AT_ONCE", 4 * VOCABULARY)
    monkeypatch.setattr(fused, "ROUND_TOKENS", 2)
    monkeypatch.setattr(fused, "SCORES_IN_CACHE", 2 * VOCABULARY)
    monkeypatch.setattr(products, "ROWS_AT_ONCE", 10)


def example(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(4, 5, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (4, 5), generator=generator)
    labels[0, 3:] = labels[2] = -100
    return hidden, weight, labels


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, label_smoothing: float, z_loss: float) -> Tensor:
    """The summed loss over scores that all exist, by torch's own functions."""
    scores = F.linear(hidden, weight).flatten(0, 1).float()
    labels = labels.flatten()
    losses = F.cross_entropy(scores, labels, label_smoothing=label_smoothing, reduction="sum")
    return losses + z_loss * (scores.logsumexp(-1).square() * (labels != -100)).sum()


def gradients(value: Tensor, *tensors: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, tensors))


@pytest.mark.parametrize(("label_smoothing", "z_loss"), SETTINGS)
def test_value_and_gradients_are_those_of_all_scores_at_once(label_smoothing: float, z_loss: float) -> None:
    hidden, weight, labels = example()
    ours = projected_cross_entropy(hidden, weight, labels, label_smoothing=label_smoothing, z_loss=z_loss)
    theirs = plain(hidden, weight, labels, label_smoothing, z_loss) / 13
    assert ours.tokens == 13
    torch.testing.assert_close(ours.value, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.cross_entropy, plain(hidden, weight, labels, 0, 0).detach(), atol=1e-5, rtol=1e-5)
    found, wanted = gradients(ours.value, hidden, weight), gradients(theirs, hidden, weight)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("normalizer", [1, 50.0, torch.tensor(50)])
def test_a_given_normaliser_divides_the_sum(normalizer: Any) -> None:
    hidden, weight, labels = example()
    ours = projected_cross_entropy(hidden, weight, labels, normalizer=normalizer)
    theirs = plain(hidden, weight, labels, 0, 0) / normalizer
    torch.testing.assert_close(ours.value, theirs)
    torch.testing.assert_close(gradients(ours.value, hidden, weight), gradients(theirs, hidden, weight))


def test_label_smoothing_is_the_references() -> None:
    hidden, weight, labels = example()
    theirs = LabelSmoother(0.1)(Seq2SeqLMOutput(logits=F.linear(hidden, weight)), labels)
    torch.testing.assert_close(projected_cross_entropy(hidden, weight, labels, label_smoothing=0.1).value, theirs)


def test_scores_that_would_overflow_an_exponential() -> None:
    hidden, weight, labels = example()
    hidden = (hidden * 100).detach().requires_grad_()
    ours, theirs = projected_cross_entropy(hidden, weight, labels).value, plain(hidden, weight, labels, 0, 0) / 13
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, hidden, weight), gradients(theirs, hidden, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype: torch.dtype) -> None:
    hidden, weight, labels = example(dtype=dtype)
    ours = projected_cross_entropy(hidden, weight, labels, label_smoothing=0.1, z_loss=1e-3)
    exact = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight)]
    theirs = plain(*exact, labels, 0.1, 1e-3) / 13
    assert ours.value.dtype == torch.float32
    torch.testing.assert_close(ours.value, theirs, rtol=5e-3, atol=0)
    for found, wanted in zip(gradients(ours.value, hidden, weight), gradients(theirs, *exact), strict=True):
        assert found.dtype == dtype
        assert (found.float() - wanted).norm() < 0.01 * wanted.norm()


def test_bfloat16_autocast_keeps_float32_gradients(multiplier: str) -> None:
    hidden, weight, labels = example()
    with torch.autocast("cpu", torch.bfloat16):
        ours = projected_cross_entropy(hidden, weight, labels).value
        theirs = plain(hidden, weight, labels, 0, 0) / 13
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0)
    for found, wanted in zip(gradients(ours, hidden, weight), gradients(theirs, hidden, weight), strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.01 * wanted.norm()


def test_the_projections_gradient_is_summed_in_float32(multiplier: str) -> None:
    """1,000 tokens that say the same: in bfloat16 a sum of 256 stays where it is when 1 is added."""
    hidden, weight = torch.ones(1000, 2), torch.zeros(5, 2, requires_grad=True)
    labels = torch.zeros(1000, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        value = projected_cross_entropy(hidden, weight, labels, normalizer=1).value
    (found,) = gradients(value, weight)
    torch.testing.assert_close(found[:, 0], torch.tensor([-800.0, 200, 200, 200, 200]), rtol=0.005, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_projection_that_lies_column_by_column(multiplier: str, dtype: torch.dtype) -> None:
    """As weights do that were transposed when they were converted; and of another type than autocast's."""
    hidden, weight, labels = example(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        straight = projected_cross_entropy(hidden, weight, labels).value
        turned_weight = weight.detach().t().contiguous().t().requires_grad_()
        turned = projected_cross_entropy(hidden, turned_weight, labels).value
    assert turned_weight.stride() == (1, VOCABULARY)
    wanted, found = gradients(straight, hidden, weight), gradients(turned, hidden, turned_weight)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=1e-3)


class Watch(TorchDispatchMode):
    """Notes the sizes of all tensors that operations return, how many products are computed, and what tables."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.products = 0
        self.gradients_of_tables: list[torch.Size] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.name() == "aten::embedding_dense_backward":
            self.gradients_of_tables.append(result.shape)
        self.products += function.name() in ("aten::mm", "aten::mm.out")
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_the_scores_of_a_batch_never_exist_at_once() -> None:
    hidden, weight, labels = example()
    hidden, weight = (one[..., :3].detach().requires_grad_() for one in (hidden, weight))
    with Watch() as watch:
        projected_cross_entropy(hidden, weight, labels).value.backward()
    assert watch.largest == fused.SCORES_AT_ONCE > weight.numel()  # else the weight's gradient would be the largest
    with Watch() as watch:
        plain(hidden, weight, labels, 0, 0).backward()
    assert watch.largest == labels.numel() * VOCABULARY


@pytest.mark.parametrize(("tokens", "size"), [(0, 32), (5, 32), (64, 64), (100, 128), (130, 96), (700, 128)])
def test_chunks_are_alike_and_of_few_sizes(tokens: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ROUND_TOKENS", 32)
    monkeypatch.setattr(fused, "SCORES_AT_ONCE", 150 * 7)
    chunks = list(fused._chunks_of_scores(torch.ones(tokens, 3), torch.ones(7, 3)))
    assert [len(scores) for _, _, scores in chunks] == [size] * len(chunks)
    assert [place for rows, _, _ in chunks for place in range(tokens)[rows]] == list(range(tokens))


@pytest.mark.parametrize(("of_hidden", "of_weight"), [(True, True), (True, False), (False, True), (False, False)])
def test_only_wanted_gradients_are_computed(of_hidden: bool, of_weight: bool) -> None:
    hidden, weight, labels = example()
    hidden.requires_grad_(of_hidden), weight.requires_grad_(of_weight)
    chunks, parts = 4, 4  # of 13 labels; and of the vocabulary, where a chunk's product is added to what is there
    with Watch() as watch:
        value = projected_cross_entropy(hidden, weight, labels).value
    assert watch.products == chunks * (1 + of_hidden) + (1 + (chunks - 1) * parts) * of_weight
    assert value.requires_grad == (of_hidden or of_weight)
    with torch.no_grad(), Watch() as watch:
        assert not projected_cross_entropy(hidden, weight, labels).value.requires_grad
    assert watch.products == chunks


def test_a_batch_without_labels_costs_nothing_where_the_normaliser_is_given() -> None:
    hidden, weight, labels = example()
    value, cross_entropy, tokens = projected_cross_entropy(hidden, weight, labels.fill_(-100), normalizer=7)
    assert (value.item(), cross_entropy.item(), tokens) == (0, 0, 0)
    assert all(not gradient.any() for gradient in gradients(value, hidden, weight))
    with pytest.raises(ValueError, match="at least one label that is not -100"):
        projected_cross_entropy(hidden, weight, labels)


def test_gradients_are_given_once() -> None:
    value = projected_cross_entropy(*example()).value
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="used up by a first backward"):
        value.backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(4, 4, dtype=torch.long)}, r"labels must have the shape \(4, 5\), got \(4, 4\)"),
        ({"labels": torch.full((4, 5), VOCABULARY)}, "labels must be from 0 to 36, got 37"),
        ({"weight": torch.zeros(VOCABULARY, 9)}, r"weight must have the shape \(vocabulary, 8\), got \(37, 9\)"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0 and below 1, got -0.1"),
        ({"z_loss": -1e-4}, "z_loss must not be negative, got -0.0001"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    arguments = dict(zip(("hidden", "weight", "labels"), example(), strict=True))
    with pytest.raises(ValueError, match=message):
        projected_cross_entropy(**{**arguments, **change})


def named_gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def training_batch(padding: str = "right") -> dict[str, Tensor]:
    batch = make_batch("ForConditionalGeneration", padding)
    labels = make_labels("ForConditionalGeneration", batch)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], **labels}


@pytest.mark.parametrize("variant", ["t5", "v1.1"])
def test_under_autocast_gradients_are_as_exact_as_the_references(variant: str, multiplier: str) -> None:
    """Both round to bfloat16, at slightly different places."""
    batch = training_batch()

    def found(model: Any, loss: Callable[[Any], Tensor], autocast: bool) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(model)
        value.backward()
        return torch.cat([gradient.flatten() for _, gradient in sorted(named_gradients(model).items())])

    ours, theirs = make_pair("ForConditionalGeneration", variant, "sdpa")
    exact, rounded = (found(theirs, lambda model: model(**batch).loss, autocast) for autocast in (False, True))
    allowed = (rounded - exact).norm()
    error = (found(ours, lambda model: text_to_text_loss(model, batch).value, autocast=True) - exact).norm()
    assert 0 < error < 1.2 * allowed < 0.1 * exact.norm()


def test_under_autocast_little_is_kept(multiplier: str) -> None:
    """For the backward pass: of normalised states the two last; where PyTorch multiplies, layers' weights in bfloat16,
    not the vocabulary's, and where the engine does, no weight."""
    model = make_pair("ForConditionalGeneration", "t5", "sdpa").ours
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        text_to_text_loss(model, training_batch())
    layers = [module.weight.shape for stack in model.stacks for module in stack.modules() if isinstance(module, Linear)]
    cast = [tensor.shape for tensor in kept.values() if tensor.dtype == torch.bfloat16]
    assert sorted(shape for shape in cast if len(shape) == 2) == (sorted(layers) if multiplier == "torch" else [])
    own = {parameter.data_ptr() for parameter in model.parameters()}
    states = [
        tensor
        for storage, tensor in kept.items()
        if tensor.dtype == torch.float32 and tensor.shape[-1] == model.config.d_model and storage not in own
    ]
    assert len(states) == 2


def test_under_autocast_nothing_is_kept_for_frozen_weights(multiplier: str) -> None:
    """Neither a copy of the weights, nor the states that only their gradient needs."""
    layer = Linear(8, 6, bias=False).requires_grad_(False)
    torch.nn.init.normal_(layer.weight)
    states = torch.randn(4, 3, 8, requires_grad=True)
    kept: list[Tensor] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    )
    with hooks, torch.autocast("cpu", torch.bfloat16):
        result = layer(states)
    assert [tensor.data_ptr() for tensor in kept] == [layer.weight.data_ptr()]
    (found,) = torch.autograd.grad(result.float().sum(), states)
    torch.testing.assert_close(found, layer.weight.sum(0).expand(4, 3, 8), atol=0.02, rtol=0.02)


def test_under_autocast_no_weight_is_copied_for_each_row_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which matmul does for a gradient whose numbers lie otherwise, as those of transposed keys do."""
    monkeypatch.setattr(products, "has_gemm", lambda: False)
    layer = Linear(8, 6, bias=False)
    torch.nn.init.normal_(layer.weight)
    states, gradient = torch.randn(4, 3, 8, requires_grad=True), torch.randn(4, 6, 3).transpose(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(states)
    with Watch() as watch:
        result.backward(gradient.bfloat16())
    assert watch.products == 2
    exact = gradients((F.linear(states, layer.weight) * gradient).sum(), states, layer.weight)
    for found, wanted in zip((states.grad, layer.weight.grad), exact, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0.03, atol=0.05)


def test_a_shared_tables_gradient_is_one_table() -> None:
    """Not one each for source, target and projection, to be added up."""
    model = make_pair("ForConditionalGeneration", "t5", "sdpa").ours
    assert tables_made(model) == 0
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    assert tables_made(model) == 2


def tables_made(model: Any) -> int:
    with Watch() as watch:
        text_to_text_loss(model, training_batch()).value.backward()
    return watch.gradients_of_tables.count(model.shared.weight.shape)


@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5-tied"])
def test_a_models_loss_and_gradients_are_the_references(variant: str) -> None:
    ours, theirs = make_pair("ForConditionalGeneration", variant, "sdpa")
    batch = training_batch()
    found = text_to_text_loss(ours, batch)
    wanted = theirs(**batch).loss
    torch.testing.assert_close(found.value, wanted, atol=1e-5, rtol=1e-5)
    found.value.backward()
    wanted.backward()
    torch.testing.assert_close(named_gradients(ours), named_gradients(theirs), atol=1e-5, rtol=1e-4)


def test_accumulated_gradients_are_those_of_one_large_batch() -> None:
    """Rows of 8, 5 and 2 labels: means of means would weigh them wrongly."""
    at_once, row_by_row = (make_pair("ForConditionalGeneration", "v1.1", "sdpa").ours for _ in range(2))
    batch = training_batch()
    whole = text_to_text_loss(at_once, batch)
    whole.value.backward()
    values = []
    for row in range(3):
        part = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        found = text_to_text_loss(row_by_row, part, normalizer=whole.tokens)
        found.value.backward()
        values.append(found.value)
    torch.testing.assert_close(sum(values), whole.value, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(named_gradients(row_by_row), named_gradients(at_once), atol=3e-6, rtol=1e-5)


def test_labels_out_of_the_vocabulary_are_refused_before_the_model_runs() -> None:
    model = make_pair("ForConditionalGeneration").ours
    batch = {**training_batch(), "labels": torch.full((3, 8), 99)}
    with pytest.raises(ValueError, match="labels must be from 0 to 98, got 99"):
        text_to_text_loss(model, batch)
