"""Refusals of wrong input to a network, before it fails somewhere deep inside torch.

Checks that look at values, not only at shapes, run on the CPU: on a GPU they would stall every forward pass, and in a
compiled graph they would break it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def check_one_given(first: object, second: object, names: tuple[str, str]) -> None:
    """ValueError unless exactly one of two alternative arguments is there."""
    if first is not None and second is not None:
        raise ValueError(f"give {names[0]} or {names[1]}, not both")
    if first is None and second is None:
        raise ValueError(f"give {names[0]} or {names[1]}: one of them is needed")


def check_batch_size(batch_size: object) -> None:
    """ValueError unless the size is a positive integer."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")


def check_tensor(value: object, name: str) -> None:
    """TypeError unless the value is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def check_token_ids(ids: torch.Tensor, vocab_size: int, name: str) -> None:
    """ValueError for ids that are no integers or not of shape (batch, length), IndexError for those out of range."""
    check_tensor(ids, name)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (batch, length) with at least one token, got {tuple(ids.shape)}")
    _check_range(ids, vocab_size, name, IndexError)


def check_embeds(embeds: torch.Tensor, d_model: int, name: str) -> None:
    """ValueError unless embeddings have the shape (batch, length, d_model)."""
    check_tensor(embeds, name)
    if embeds.dim() != 3 or embeds.shape[2] != d_model:
        raise ValueError(f"{name} must have the shape (batch, length, {d_model}), got {tuple(embeds.shape)}")


def check_mask(mask: torch.Tensor | None, batch: int, queries: int, keys: int, name: str) -> None:
    """ValueError unless a mask is (batch, keys), (batch, queries, keys) or (batch, heads, queries, keys)."""
    if mask is None:
        return
    check_tensor(mask, name)
    fits = mask.dim() in (2, 3, 4) and mask.shape[-1] == keys
    fits = fits and mask.shape[0] in ((1, batch) if mask.dim() == 4 else (batch,))
    if not fits or (mask.dim() > 2 and mask.shape[-2] not in (1, queries)):
        raise ValueError(f"{name} must have the shape ({batch}, {keys}), (batch, length); got {tuple(mask.shape)}")


def check_shape(values: torch.Tensor, shape: Sequence[int], name: str) -> None:
    """ValueError unless there is one value for each place of `shape`; dimensions of 1 do not count."""
    wanted = [size for size in shape if size != 1]
    check_tensor(values, name)
    if [size for size in values.shape if size != 1] != wanted:
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(values.shape)}")


def check_labels(labels: torch.Tensor, classes: int, name: str = "labels") -> None:
    """ValueError for labels that are neither in [0, classes) nor -100, which marks positions without a loss."""
    check_tensor(labels, name)
    if labels.is_floating_point():
        raise ValueError(f"{name} must be integers, got {labels.dtype}")
    _check_range(labels[labels != -100], classes, name, ValueError)


def check_equal_counts(counts: torch.Tensor, what: str) -> None:
    """ValueError unless all rows have the same number of something, at least one."""
    if torch.compiler.is_compiling() or counts.numel() == 0:
        return
    if counts.min() != counts.max() or counts.min() == 0:
        raise ValueError(f"every row must have the same number of {what}, at least one; got {counts.tolist()}")


def check_head_mask(mask: torch.Tensor, layers: int, heads: int, name: str) -> None:
    """ValueError unless a head mask has the shape (heads,) or (layers, heads)."""
    if tuple(mask.shape) not in ((heads,), (layers, heads)):
        raise ValueError(f"{name} must have the shape ({heads},) or ({layers}, {heads}), got {tuple(mask.shape)}")


def _check_range(values: torch.Tensor, limit: int, name: str, error: type[Exception]) -> None:
    if torch.compiler.is_compiling() or values.device.type != "cpu" or values.numel() == 0:
        return
    low, high = (bound.item() for bound in values.aminmax())
    if low < 0 or high >= limit:
        raise error(f"{name} must be from 0 to {limit - 1}, got {low if low < 0 else high}")
