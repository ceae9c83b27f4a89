"""Attention: one operation with one signature and several backends, chosen in one place.

T5 differs from most transformers in two ways: scores are not divided by sqrt(d_kv), because the initialisation absorbs
it, and a bias that depends on the distance between query and key is added to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from quintet.model.autocast import is_cast_for_training
from quintet.model.position import PositionBias


@dataclass
class AttentionBias:
    """What is added to the scores: a position bias, and a mask (batch, 1, queries or 1, keys) of 0 and large negatives.

    One object serves all layers that share it, so that its dense form is computed once.
    """

    position: PositionBias | None = None
    mask: torch.Tensor | None = None
    _dense: torch.Tensor | None = None

    def dense(self) -> torch.Tensor | None:
        """The sum of both as a tensor that broadcasts to (batch, heads, queries, keys); None if there is neither."""
        if self._dense is None:
            self._dense = self._sum()
        return self._dense

    def to(self, device: torch.device, non_blocking: bool = False) -> AttentionBias:
        """The bias on another device, in its dense form; itself if it is there already."""
        dense = self.dense()
        if dense is None or dense.device == torch.device(device):
            return self
        return AttentionBias(mask=dense.to(device, non_blocking=non_blocking))

    def _sum(self) -> torch.Tensor | None:
        if self.position is None:
            return self.mask
        if self.mask is None:
            # Laid out like the scores: every layer adds it, and strided reads would slow each of them.
            return self.position.dense().contiguous()
        return torch.add(self.position.dense(), self.mask).contiguous()


FEW_QUERIES = 8
FEW_IN_TRAINING = 128


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    backend: str,
    dropout: float = 0.0,
    head_mask: torch.Tensor | None = None,
    need_weights: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of queries (batch, heads, queries, d_kv) over keys and values (batch, heads, keys, d_kv).

    Returns the result (batch, heads, queries, d_kv) and, if asked for, the weights (batch, heads, queries, keys).
    `dropout` is the probability of dropping a weight; `head_mask` multiplies each head's weights.

    The eager backend takes over where another has no way: it alone has weights to return or to mask by head, and on a
    CPU no fused kernel gives the bias a gradient (PyTorch would write the steps out too, with some of its own between).
    On a CPU it also takes what it does faster than the fused kernel: a batch's decoding steps (2 to 3 times as fast),
    and training on short texts in bfloat16 (up to 5 times).
    """
    learns_bias = bias is not None and bias.requires_grad and bias.device.type == "cpu"
    if need_weights or head_mask is not None or learns_bias or _is_step(query) or _trains_on_few(query, key):
        backend = "eager"
    return BACKENDS[backend](query, key, value, bias, dropout, head_mask)


def _is_step(query: torch.Tensor) -> bool:
    """Whether these are the few queries of a decoding step of several sources, on a CPU in float32."""
    if torch.is_grad_enabled() or query.device.type != "cpu" or query.dtype != torch.float32:
        return False
    return query.shape[0] > 1 and query.shape[2] <= FEW_QUERIES


def _trains_on_few(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether there will be gradients of few queries and keys, on a CPU in half precision."""
    if not query.requires_grad or query.device.type != "cpu" or query.dtype == torch.float32:
        return False
    return max(query.shape[2], key.shape[2]) <= FEW_IN_TRAINING


def eager_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    dropout: float,
    head_mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The specification: every step written out, in the reference's order and precisions (softmax in float32)."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    if bias is not None:
        scores += bias
    weights = _softmax(scores)
    weights = F.dropout(weights, dropout)
    if head_mask is not None:
        weights = weights * head_mask
    return torch.matmul(weights, value), weights


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over the last dimension; computed in float32, given in the scores' type."""
    if is_cast_for_training(scores):  # the same, and no result in float32 is kept for the backward pass
        with torch.autocast(scores.device.type, enabled=False):
            return F.softmax(scores, dim=-1)
    return F.softmax(scores.float(), dim=-1).type_as(scores)


def sdpa_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    dropout: float,
    head_mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """PyTorch's fused attention: no weights to return or to mask by head."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0), None


BACKENDS = {"eager": eager_attention, "sdpa": sdpa_attention}
DEFAULT_BACKEND = "sdpa"


def choose_backend(name: str | None) -> str:
    """The backend of that name, or the default; ValueError for a name that is none."""
    if name is None:
        return DEFAULT_BACKEND
    if name not in BACKENDS:
        raise ValueError(f"attn_implementation {name!r} is not known; it must be one of {', '.join(BACKENDS)}")
    return name
