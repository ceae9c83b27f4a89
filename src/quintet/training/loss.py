"""The loss of training: scores of the vocabulary and their cross-entropy in one step, a few hundred tokens at a time.

A batch's scores, tokens x vocabulary, are the largest thing in the training of a small T5: three times 1 GB for 8,000
tokens and 32,128 pieces (scores, log-probabilities, gradient). None of it is needed longer than it takes to compute a
chunk's losses and, from the same numbers, its gradients. Positions without a label are left out before the projection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from quintet.model import checks
from quintet.model.autocast import product_dtype
from quintet.model.heads import T5ForConditionalGeneration
from quintet.model.init import Embedding
from quintet.model.products import factor, is_native, multiply, multiply_into
from quintet.quantize import QuantizedLinear

SCORES_AT_ONCE = 2**24  # numbers; 64 MB in float32, half as much where products are in half precision
ROUND_TOKENS = 32  # chunks have a multiple of so many tokens: oneDNN compiles a product for each size that it meets
SCORES_IN_CACHE = 2**19  # numbers whose losses are computed together: 2 MB in float32
IGNORED = -100


class Loss(NamedTuple):
    """What a batch was found to cost.

    value: a scalar, the loss to differentiate, with label smoothing and z-loss, divided by the normaliser.
    cross_entropy: a scalar without gradient, the sum over tokens of -log p: for logs and perplexity.
    tokens: how many labels were not -100.
    """

    value: torch.Tensor
    cross_entropy: torch.Tensor
    tokens: int


def text_to_text_loss(
    model: T5ForConditionalGeneration,
    batch: Mapping[str, Any],
    *,
    normalizer: float | torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Loss:
    """The loss of a batch: labels (batch, target), -100 where none is wanted, and keywords of the model's stacks.

    Without decoder_input_ids the decoder reads the labels shifted right. The rest is `projected_cross_entropy`'s.
    """
    inputs = dict(batch)
    labels = inputs.pop("labels")
    checks.check_labels(labels, model.lm_head.out_features)
    inputs.setdefault("decoder_input_ids", model.prepare_decoder_input_ids_from_labels(labels))
    output = model.lm_head
    weight = output.dequantized() if isinstance(output, QuantizedLinear) else output.weight
    if _is_one_table(model, inputs):
        table, weight = _BothUses.apply(weight)
        inputs["inputs_embeds"] = _looked_up(table, inputs.pop("input_ids"), "input_ids")
        inputs["decoder_inputs_embeds"] = _looked_up(table, inputs.pop("decoder_input_ids"), "decoder_input_ids")
    hidden = model.run_stacks(**inputs, use_cache=False)[0]
    return projected_cross_entropy(
        model.scale_states(hidden),
        weight,
        labels.to(hidden.device),
        normalizer=normalizer,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )


def _is_one_table(model: T5ForConditionalGeneration, inputs: Mapping[str, Any]) -> bool:
    """Whether the same weights embed sources and targets and project, on a CPU, where tables of gradients are dear."""
    weight = model.lm_head.weight
    stacks = (model.encoder.embed_tokens, model.decoder.embed_tokens)
    is_tied = all(type(one) is Embedding and one.weight is weight for one in stacks)
    reads_tokens = inputs.get("input_ids") is not None and inputs["decoder_input_ids"] is not None
    return is_tied and reads_tokens and weight.device.type == "cpu" and not torch.compiler.is_compiling()


def _looked_up(table: torch.Tensor, ids: torch.Tensor, name: str) -> torch.Tensor:
    """The rows of these ids; the table's gradient is then those rows' alone (sparse)."""
    checks.check_token_ids(ids, len(table), name)
    return F.embedding(ids, table, sparse=True)


class _BothUses(torch.autograd.Function):
    """A table as what rows are taken from, and as a projection.

    The gradients of the rows, of a few hundred tokens, are added to the projection's. Embeddings left to themselves
    make a table of zeros each, as large as the vocabulary, and add it up: a twentieth of a small model's step.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_rows: torch.Tensor, of_projection: torch.Tensor) -> torch.Tensor:
        return of_projection.add_(of_rows)


@torch.compiler.disable  # the number of labels differs from batch to batch, and the gradients are made here anyway
def projected_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    normalizer: float | torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Loss:
    """Cross-entropy of states (..., d_model) projected by weight (vocabulary, d_model), for labels (...).

    Per token: (1 - label_smoothing) * -log p(label) + label_smoothing * mean of -log p over the vocabulary
    + z_loss * log(Z)**2, where Z is the sum of exp(score). Summed and divided by normalizer: None is the number of
    labels (their mean), 1 leaves the sum. Batches whose gradients are accumulated are given the number of labels in
    all of them; then they count as one batch. Labels of -100 cost nothing.

    Products are computed in autocast's type where that is on; losses and sums are float32.
    Raises ValueError for shapes or values that do not fit, and without normalizer if no label is there.
    """
    _check(hidden, weight, labels, label_smoothing, z_loss)
    wanted = labels.flatten() != IGNORED
    targets = labels.flatten()[wanted]
    if normalizer is None:
        if len(targets) == 0:
            raise ValueError("the mean loss needs at least one label that is not -100")
        normalizer = len(targets)
    states = hidden.flatten(0, -2)[wanted]
    total, cross_entropy = _Fused.apply(
        states, weight, targets, label_smoothing, z_loss, torch.is_grad_enabled(), product_dtype(states)
    )
    return Loss(total / normalizer, cross_entropy, len(targets))


def _check(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, label_smoothing: float, z_loss: float
) -> None:
    if hidden.shape[:-1] != labels.shape:
        raise ValueError(f"labels must have the shape {tuple(hidden.shape[:-1])}, got {tuple(labels.shape)}")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight must have the shape (vocabulary, {hidden.shape[-1]}), got {tuple(weight.shape)}")
    checks.check_labels(labels, weight.shape[0])
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
    if z_loss < 0:
        raise ValueError(f"z_loss must not be negative, got {z_loss}")


class _Fused(torch.autograd.Function):
    """The summed losses; gradients are ready before `backward`, which only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        label_smoothing: float,
        z_loss: float,
        differentiable: bool,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_states, of_weight = (differentiable and needed for needed in ctx.needs_input_grad[:2])
        state_gradient = torch.empty_like(states) if of_states else None
        empty = torch.empty_like if len(states) else torch.zeros_like  # the first chunk fills it
        weight_gradient = empty(weight, dtype=torch.float32) if of_weight else None
        total, cross_entropy = states.new_zeros(2, dtype=torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            cast = states.to(dtype)
            projection = factor(weight, cast)
            for rows, inputs, gradient in _chunks_of_scores(cast, projection):
                for part, of_part in _parts(gradient[: len(targets[rows])], targets[rows]):
                    scores = part.float()
                    losses, plain = _losses_and_gradient(scores, of_part, label_smoothing, z_loss)
                    total += losses
                    cross_entropy += plain
                    if scores is not part:
                        part.copy_(scores)
                if state_gradient is not None:
                    state_gradient[rows] = _of_states(gradient, projection)[: len(targets[rows])]
                if weight_gradient is not None:
                    multiply_into(weight_gradient, gradient.t(), inputs, adds=rows.start > 0)
        ctx.gradients = state_gradient, None if weight_gradient is None else weight_gradient.to(weight.dtype)
        ctx.mark_non_differentiable(cross_entropy)
        return total, cross_entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_total: torch.Tensor, of_cross_entropy: torch.Tensor) -> tuple[Any, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were used up by a first backward()")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = (None if gradient is None else gradient.mul_(of_total) for gradient in gradients)
        return *scaled, None, None, None, None, None


def _chunks_of_scores(
    states: torch.Tensor, projection: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Places of `states`, the states there, and their products with the projection, which the next overwrite.

    Chunks are of one size, (size, d_model) and (size, vocabulary); the last is filled up with zeros.
    """
    size = _size_of_chunks(len(states), SCORES_AT_ONCE // len(projection))
    products = states.new_empty(size, len(projection))
    for start in range(0, len(states), size):
        rows = slice(start, min(start + size, len(states)))
        inputs = F.pad(states[rows], (0, 0, 0, start + size - rows.stop))
        multiply_into(products, inputs, projection.t())
        yield rows, inputs, products


def _size_of_chunks(tokens: int, most: int) -> int:
    """How many tokens a chunk has, of as few chunks as can be: the least multiple of ROUND_TOKENS, `most` at most."""
    tokens, most = math.ceil(tokens / ROUND_TOKENS) or 1, most // ROUND_TOKENS or 1
    return ROUND_TOKENS * math.ceil(tokens / math.ceil(tokens / most))


def _parts(scores: torch.Tensor, targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of both: on a CPU as many as stay in its cache while their losses are computed, elsewhere all."""
    size = max(1, SCORES_IN_CACHE // scores.shape[1]) if scores.device.type == "cpu" else len(scores)
    return zip(scores.split(size), targets.split(size), strict=True)


def _losses_and_gradient(
    scores: torch.Tensor, targets: torch.Tensor, label_smoothing: float, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed losses and cross-entropies of scores (tokens, vocabulary), which become the gradient of the losses."""
    places = targets.unsqueeze(1)
    of_target = scores.gather(1, places)
    mean = scores.mean(dim=1, keepdim=True) if label_smoothing else 0.0
    peak = scores.amax(dim=1, keepdim=True)
    normalizers = scores.sub_(peak).exp_().sum(dim=1, keepdim=True)
    log_z = peak + normalizers.log()
    smoothed = (1 - label_smoothing) * of_target + label_smoothing * mean
    losses = log_z - smoothed + z_loss * log_z.square()

    scores.mul_((1 + 2 * z_loss * log_z) / normalizers)
    if label_smoothing:
        scores.sub_(label_smoothing / scores.shape[1])
    scores.scatter_add_(1, places, torch.full_like(log_z, label_smoothing - 1))
    return losses.sum(), (log_z - of_target).sum()


def _of_states(gradient: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """The states' gradient (tokens, d_model) from that of their scores (tokens, vocabulary)."""
    if is_native(gradient, projection):
        return multiply(gradient, projection, torch.float32)
    # Its transpose: the product itself, of sums this long, takes oneDNN 30 to 50 ms to compile for AMX.
    return (projection.t() @ gradient.t()).t()
