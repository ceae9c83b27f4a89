"""Weights as small integers with scales: rounding, packing two to a byte, and the way back.

A group is a run of consecutive inputs of one output. Its scale has the sign that puts the group's extreme value on the
lowest integer, -2**(bits - 1), so that every level is in use and no zero point is needed (llama.cpp's Q4_0 does the
same). On T5 this lost less than the usual symmetric range (-7 to 7) and than a search for the scale of least squared
error: see benchmarks/RESULTS.md.
"""

from __future__ import annotations

import torch

NUMBERS_AT_ONCE = 2**18  # on a CPU: large temporaries leave the heap in pieces, and T5-base took 970 MB for 250

STORAGE = {8: torch.int8, 4: torch.uint8}
"""What integers of so many bits are kept in. Two of 4 bits share a byte: an even input in the low half, plus 8."""


def packed_shapes(out_features: int, in_features: int, bits: int, group_size: int) -> tuple[torch.Size, torch.Size]:
    """The shapes of the integers and of the scales of a weight; ValueError if groups do not divide its inputs."""
    if in_features % group_size:
        raise ValueError(f"a group size of {group_size} does not divide {in_features} inputs")
    integers = torch.Size((out_features, in_features * bits // 8))
    return integers, torch.Size((out_features, in_features // group_size))


@torch.no_grad()
def quantize(
    weight: torch.Tensor, bits: int, group_size: int, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight (outputs, inputs) to integers and scales, in the shapes of `packed_shapes`.

    The integers fit the scales as those are stored, rounded to `scale_dtype`. Raises ValueError for a weight that is
    not finite, or whose groups do not divide its inputs.
    """
    shape, scale_shape = packed_shapes(weight.shape[0], weight.shape[1], bits, group_size)
    packed = torch.empty(shape, dtype=STORAGE[bits], device=weight.device)
    scale = torch.empty(scale_shape, dtype=scale_dtype, device=weight.device)
    at_once = max(1, NUMBERS_AT_ONCE // weight.shape[1]) if weight.device.type == "cpu" else len(weight)
    for start in range(0, len(weight), at_once):
        rows = slice(start, start + at_once)
        _quantize_rows(weight[rows], packed[rows], scale[rows])
    if not scale.isfinite().all():
        raise ValueError(f"the weight is not finite, or its scales are not in {scale_dtype}")
    return packed, scale


def _quantize_rows(weight: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> None:
    """Fill `packed` and `scale`, whose types and shapes say how."""
    bits = 8 if packed.dtype == STORAGE[8] else 4
    lowest = -(2 ** (bits - 1))
    groups = weight.float().unflatten(1, (scale.shape[1], -1))
    extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale.copy_((extreme / lowest).squeeze(-1))
    divisor = scale.float().masked_fill(scale == 0, 1.0).unsqueeze(-1)
    integers = (groups / divisor).round_().clamp_(lowest, -lowest - 1).flatten(1)
    packed.copy_(integers if bits == 8 else _pack(integers.to(torch.int8)))


def dequantize(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weight (outputs, inputs) that integers and scales stand for, in the dtype of the scales."""
    integers = packed if packed.dtype == STORAGE[8] else _unpack(packed)
    groups = integers.to(scale.dtype).unflatten(1, (scale.shape[1], -1))
    return groups.mul_(scale[..., None]).flatten(1)


def _pack(integers: torch.Tensor) -> torch.Tensor:
    shifted = (integers + 8).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    pairs = torch.stack((packed & 15, packed >> 4), dim=-1)
    return pairs.flatten(1).to(torch.int8) - 8
