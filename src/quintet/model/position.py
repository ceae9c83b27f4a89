"""Relative positions: T5 sorts distances between tokens into buckets and learns one bias per bucket and head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


def relative_position_bucket(
    relative_position: torch.Tensor, bidirectional: bool = True, num_buckets: int = 32, max_distance: int = 128
) -> torch.Tensor:
    """The bucket of each relative position (key position minus query position), an integer in [0, num_buckets).

    Half of the buckets hold one distance each; the others grow logarithmically up to `max_distance`, beyond which all
    distances share the last. With `bidirectional`, keys after the query use the upper half of the buckets; otherwise
    they all count as distance 0 (Raffel et al. 2020, section 2.1; mesh-tensorflow's formula, logarithm in float32).
    """
    if bidirectional:
        num_buckets //= 2
        first = (relative_position > 0).long() * num_buckets
        distance = relative_position.abs()
    else:
        first = torch.zeros_like(relative_position)
        distance = (-relative_position).clamp(min=0)
    exact = num_buckets // 2
    growth = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    logarithmic = (exact + growth.long()).clamp(max=num_buckets - 1)
    return first + torch.where(distance < exact, distance, logarithmic)


@dataclass(frozen=True)
class PositionBias:
    """The relative position bias of one self-attention: a table, and which entry each query-key pair takes.

    `table` embeds num_buckets buckets as one number per head; `buckets` (queries, keys) indexes it.
    """

    table: nn.Embedding
    buckets: torch.Tensor

    def dense(self) -> torch.Tensor:
        """The bias as a tensor (1, heads, queries, keys), to be added to attention scores."""
        return self.table(self.buckets).permute(2, 0, 1).unsqueeze(0)


def bucket_grid(
    query_positions: torch.Tensor, key_length: int, bidirectional: bool, num_buckets: int, max_distance: int
) -> torch.Tensor:
    """The buckets (queries, keys) between queries at the given positions and keys at 0, 1, ..., key_length - 1."""
    key_positions = torch.arange(key_length, device=query_positions.device)
    distances = key_positions[None, :] - query_positions[:, None]
    return relative_position_bucket(distances, bidirectional, num_buckets, max_distance)
