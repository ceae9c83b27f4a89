"""Embedding tables of another size, or of integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quintet.quantize import VOCABULARY, QuantizedEmbedding, QuantizedLayer, QuantizedLinear

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel

Table = nn.Embedding | QuantizedEmbedding
"""What turns ids into embeddings."""
OutputLayer = nn.Linear | QuantizedLinear
"""What turns states into scores of tokens."""


def target_size(old: Table, new_num_tokens: int | None, pad_to_multiple_of: int | None) -> int:
    """How many rows the new table gets: the number asked for (or the old one), rounded up to the multiple."""
    size = old.num_embeddings if new_num_tokens is None else new_num_tokens
    multiple = 1 if pad_to_multiple_of is None else pad_to_multiple_of
    for name, value in (("new_num_tokens", size), ("pad_to_multiple_of", multiple)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return -(-size // multiple) * multiple


def resized_embedding(old: Table, size: int, mean_resizing: bool) -> nn.Embedding:
    """An embedding of `size` rows: the old ones, as far as they fit, and new ones."""
    weight = _resized(old.weight, size, mean_resizing)
    return nn.Embedding.from_pretrained(weight, freeze=not old.weight.requires_grad)


def resized_linear(old: OutputLayer, size: int, mean_resizing: bool) -> nn.Linear:
    """A linear layer of `size` outputs and no bias: the old ones, as far as they fit, and new ones."""
    new = nn.Linear(old.in_features, size, bias=False, device="meta")
    new.weight = nn.Parameter(_resized(old.weight, size, mean_resizing), requires_grad=old.weight.requires_grad)
    return new


def round_vocabulary(model: T5PreTrainedModel) -> None:
    """Put empty layers of integers in place of the embeddings and of the output layer, on the default device."""
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    model.place_embeddings(QuantizedEmbedding(table.num_embeddings, table.embedding_dim))
    if output is not None:
        model.set_submodule("lm_head", QuantizedLinear(output.in_features, output.out_features, VOCABULARY))
    model.tie_weights()


def refuse_quantized(*layers: nn.Module | None) -> None:
    """TypeError if the weights of one of these are integers."""
    if any(isinstance(layer, QuantizedLayer) for layer in layers):
        raise TypeError("quantized embeddings and output layers cannot be resized or replaced: do it before quantizing")


def _resized(old: torch.Tensor, size: int, mean_resizing: bool) -> torch.Tensor:
    old = old.detach()
    kept = old[:size].clone()
    added = size - kept.shape[0]
    if added == 0:
        return kept
    rows = _around_the_mean(old, added) if mean_resizing else torch.randn_like(old[:1].expand(added, -1))
    return torch.cat([kept, rows])


def _around_the_mean(old: torch.Tensor, count: int) -> torch.Tensor:
    """Rows from a normal distribution with the mean of the old rows and a billionth of their covariance.

    New tokens then hardly change the probabilities of the old ones (Hewitt 2021, "Initializing new word embeddings").
    A random combination of the centred old rows has their covariance, without having to factor it.
    """
    rows = old.float()
    mean = rows.mean(dim=0)
    weights = torch.randn(count, rows.shape[0], device=old.device) / max(rows.shape[0] - 1, 1) ** 0.5
    return (mean + 1e-9**0.5 * (weights @ (rows - mean))).to(old.dtype)
