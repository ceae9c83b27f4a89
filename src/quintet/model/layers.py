"""The layers of T5: normalisation, feed-forward, attention, and the block that stacks them.

Attribute names are the names of published checkpoints (`SelfAttention.q`, `DenseReluDense.wi_0`, ...): they are the
file format. Every layer is residual with the normalisation in front: x + dropout(f(norm(x))).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from quintet.config import T5Config
from quintet.model.activations import ACTIVATIONS
from quintet.model.attention import AttentionBias, attend
from quintet.model.autocast import autocast_dtype, for_products, in_autocast
from quintet.model.init import Embedding, Linear
from quintet.model.norm import RMSNorm
from quintet.model.sharing import SourceSharing


class KeyValueStore(Protocol):
    """Where an attention layer keeps its keys and values between steps."""

    def recall(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Keys and values that need not be computed again, if there are any."""

    def extend(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep new keys and values; returns all that the query may look at."""


@dataclass
class AttentionInputs:
    """What an attention layer needs beside its hidden states, put together once per stack (`stack.py`)."""

    bias: AttentionBias
    backend: str
    need_weights: bool = False
    head_mask: torch.Tensor | None = None
    """Factors (1, heads, 1, 1) for the attention weights."""
    memory: torch.Tensor | None = None
    """The encoder's states (batch, source, d_model), if this is cross-attention."""
    store: KeyValueStore | None = None
    sharing: SourceSharing | None = None
    """Which source each row reads, if several rows read the same one (cross-attention under beams)."""

    def to(self, device: torch.device, non_blocking: bool = False) -> AttentionInputs:
        """A copy whose tensors are on `device`: `accelerate` calls this between blocks on different devices."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        bias = self.bias.to(device, non_blocking)
        return replace(self, bias=bias, head_mask=move(self.head_mask), memory=move(self.memory))


class FeedForward(nn.Module):
    """wo(dropout(act(wi(x)))), or with a gate (Shazeer 2020): wo(dropout(act(wi_0(x)) * wi_1(x)))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.is_gated = config.is_gated_act
        if self.is_gated:
            self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.act = ACTIVATIONS[config.dense_act_fn]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., d_model) to (..., d_model)."""
        inner = self.act(self.wi_0(hidden)) * self.wi_1(hidden) if self.is_gated else self.act(self.wi(hidden))
        inner = self.dropout(inner)
        # float16 models keep wo in float32: its input overflows. Quantized weights take any input; autocast chooses.
        if self.wo.weight.is_floating_point() and not in_autocast(inner):
            inner = inner.to(self.wo.weight.dtype)
        return self.wo(inner)


class Attention(nn.Module):
    """Multi-head attention without scaling; over its own input, or over `AttentionInputs.memory`."""

    def __init__(self, config: T5Config, has_relative_attention_bias: bool) -> None:
        super().__init__()
        self.n_heads = config.num_heads
        self.d_kv = config.d_kv
        self.dropout = config.dropout_rate
        inner = config.num_heads * config.d_kv
        self.q = Linear(config.d_model, inner, bias=False)
        self.k = Linear(config.d_model, inner, bias=False)
        self.v = Linear(config.d_model, inner, bias=False)
        self.o = Linear(inner, config.d_model, bias=False)
        if has_relative_attention_bias:
            self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.pruned_heads: set[int] = set()

    def forward(self, hidden: torch.Tensor, inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, queries, d_model) to the same; and the weights (batch, heads, queries, keys) if asked for."""
        hidden = for_products(hidden)
        key, value = self._keys_values(hidden, inputs)
        query = self._split_heads(self.q(hidden))
        sharing = inputs.sharing
        context, weights = attend(
            query if sharing is None else sharing.fold(query),
            key,
            value,
            self._bias_of_kept_heads(inputs.bias.dense()),
            backend=inputs.backend,
            dropout=self.dropout if self.training else 0.0,
            head_mask=inputs.head_mask,
            need_weights=inputs.need_weights,
        )
        if sharing is not None:
            context = sharing.unfold(context)
            weights = None if weights is None else sharing.unfold(weights)
        return self.o(context.transpose(1, 2).flatten(2)), weights

    def _keys_values(self, hidden: torch.Tensor, inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor]:
        recalled = inputs.store.recall() if inputs.store is not None else None
        if recalled is not None:
            return recalled
        states = hidden if inputs.memory is None else for_products(inputs.memory)
        key, value = self._split_heads(self.k(states)), self._split_heads(self.v(states))
        return (key, value) if inputs.store is None else inputs.store.extend(key, value)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, length, heads * d_kv) to (batch, heads, length, d_kv)."""
        return states.unflatten(-1, (self.n_heads, self.d_kv)).transpose(1, 2)

    def _bias_of_kept_heads(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        if not self.pruned_heads or bias is None or bias.shape[1] == 1:
            return bias
        kept = [head for head in range(bias.shape[1]) if head not in self.pruned_heads]
        return bias[:, kept]

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Remove heads, numbered as in the unpruned layer; those removed before are skipped.

        Raises ValueError for a head that is not there, or if none would be left.
        """
        total = self.n_heads + len(self.pruned_heads)
        pruned = self.pruned_heads | set(heads)
        if not pruned <= set(range(total)):
            raise ValueError(f"heads to prune must be from 0 to {total - 1}, got {sorted(pruned)}")
        if len(pruned) == total:
            raise ValueError(f"cannot prune all {total} heads of a layer")
        before = [head for head in range(total) if head not in self.pruned_heads]
        rows = [
            index * self.d_kv + offset
            for index, head in enumerate(before)
            if head not in pruned
            for offset in range(self.d_kv)
        ]
        for projection, dim in ((self.q, 0), (self.k, 0), (self.v, 0), (self.o, 1)):
            _keep(projection, rows, dim)
        self.n_heads, self.pruned_heads = total - len(pruned), pruned


def _keep(linear: nn.Linear, indices: list[int], dim: int) -> None:
    """Reduce a linear layer to some of its outputs (dim 0) or inputs (dim 1)."""
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"heads of {type(linear).__name__} layers cannot be pruned: prune before quantizing")
    index = torch.tensor(indices, device=linear.weight.device)
    weight = linear.weight.detach().index_select(dim, index)
    linear.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    linear.out_features, linear.in_features = weight.shape


class SelfAttentionLayer(nn.Module):
    """Residual self-attention."""

    def __init__(self, config: T5Config, has_relative_attention_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(config, has_relative_attention_bias)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden: torch.Tensor, inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The new states, and the attention weights if asked for."""
        attended, weights = self.SelfAttention(self.layer_norm(hidden, autocast_dtype(hidden)), inputs)
        return hidden + self.dropout(attended), weights


class CrossAttentionLayer(nn.Module):
    """Residual attention over the encoder's states."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.EncDecAttention = Attention(config, has_relative_attention_bias=False)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden: torch.Tensor, inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The new states, and the attention weights if asked for."""
        attended, weights = self.EncDecAttention(self.layer_norm(hidden, autocast_dtype(hidden)), inputs)
        return hidden + self.dropout(attended), weights


class FeedForwardLayer(nn.Module):
    """Residual feed-forward."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = FeedForward(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The new states."""
        inner = self.DenseReluDense(self.layer_norm(hidden, autocast_dtype(hidden)))
        return hidden + self.dropout(inner)


class Block(nn.Module):
    """Self-attention, in a decoder cross-attention, and feed-forward."""

    def __init__(self, config: T5Config, is_decoder: bool, has_relative_attention_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([SelfAttentionLayer(config, has_relative_attention_bias)])
        if is_decoder:
            self.layer.append(CrossAttentionLayer(config))
        self.layer.append(FeedForwardLayer(config))

    @property
    def self_attention(self) -> Attention:
        """The block's self-attention, which may hold the stack's position bias."""
        return self.layer[0].SelfAttention  # type: ignore[return-value]

    def forward(
        self, hidden: torch.Tensor, own: AttentionInputs, cross: AttentionInputs | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The new states, the self-attention weights, the cross-attention weights (each None if not asked for)."""
        cross_weights = None
        hidden, own_weights = self.layer[0](hidden, own)
        hidden = clamp_half(hidden)
        if cross is not None:
            hidden, cross_weights = self.layer[1](hidden, cross)
            hidden = clamp_half(hidden)
        return clamp_half(self.layer[-1](hidden)), own_weights, cross_weights


def clamp_half(hidden: torch.Tensor) -> torch.Tensor:
    """In float16, pull infinities back below the largest number, as T5's large sizes need; nothing in other dtypes."""
    if hidden.dtype != torch.float16:
        return hidden
    largest = torch.finfo(torch.float16).max
    limit = torch.where(hidden.isinf().any(), largest - 1000, largest)
    return hidden.clamp(min=-limit, max=limit)
