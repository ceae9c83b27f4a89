"""Masks in the form attention adds to its scores: 0 where a query may look at a key, a large negative where not.

Built once per stack. "A large negative" is the dtype's smallest number, not minus infinity: a query that may look at
nothing (a padded row) then gets equal weights instead of NaN.
"""

from __future__ import annotations

import torch


def padding_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """From 1 (look) and 0 (padding), (batch, keys) or (batch, queries, keys), to (batch, 1, 1 or queries, keys)."""
    mask = attention_mask[:, None, None, :] if attention_mask.dim() == 2 else attention_mask[:, None, :, :]
    return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min


def causal_mask(
    attention_mask: torch.Tensor | None, positions: torch.Tensor, key_length: int, dtype: torch.dtype
) -> torch.Tensor | None:
    """For queries at `positions` over keys 0 to key_length - 1: no key after the query, and none that is padding.

    attention_mask is (batch, keys) or (batch, queries, keys), of 1 and 0, and may be shorter than the keys of a static
    cache; or (batch, 1, queries, keys), taken as it is, already in additive form. Returns (batch or 1, 1, queries,
    keys).
    """
    if attention_mask is not None and attention_mask.dim() == 4:
        return attention_mask
    key_positions = torch.arange(key_length, device=positions.device)
    hidden = (key_positions[None, :] > positions[:, None])[None, None]
    if attention_mask is not None:
        unpadded = key_length - attention_mask.shape[-1]
        padding = torch.nn.functional.pad(attention_mask == 0, (0, unpadded), value=False)
        hidden = hidden | (padding[:, None, None, :] if padding.dim() == 2 else padding[:, None])
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill(hidden, torch.finfo(dtype).min)
