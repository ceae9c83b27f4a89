"""Rounding and packing: against llama.cpp's own Q4_0, against the definition, and back."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quintet.quantize.packing import dequantize, quantize

SCALE_DTYPES = (torch.float32, torch.bfloat16)


def random_weight(seed: int, rows: int = 3, columns: int = 64, size: float = 1.0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size


@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from((4, 8)),
    group=st.sampled_from((16, 32, 64)),
    size=st.sampled_from((1e-20, 1e-3, 1.0, 1e5)),
    dtype=st.sampled_from(SCALE_DTYPES),
    zeros=st.booleans(),
)
def test_each_value_is_off_by_half_a_step_at_most(seed, bits, group, size, dtype, zeros):
    weight = random_weight(seed, size=size)
    if zeros:
        weight[1] = 0
    packed, scale = quantize(weight, bits, group, dtype)
    restored = dequantize(packed, scale.float())
    levels = 2 ** (bits - 1)
    for row in range(3):
        for start in range(0, 64, group):
            values, rounded = weight[row, start : start + group], restored[row, start : start + group]
            step = values.abs().max() / levels
            assert len(rounded.unique()) <= 2 * levels
            # The opposite end has one level less; scales in bfloat16 are off by 2**-9 themselves.
            slack = 0.0 if dtype == torch.float32 else levels * 2**-8
            inside = values.abs() < step * (levels - 0.5)
            assert ((values - rounded).abs() <= step * (0.501 + slack)).logical_or(~inside).all()
            assert ((values - rounded).abs() <= step * (1.001 + slack)).all()
            if dtype == torch.float32:
                extreme = values.abs().argmax()
                torch.testing.assert_close(rounded[extreme], values[extreme])


def test_four_bits_are_those_of_llama_cpp():
    """Q4_0 is the same scheme, with scales in float16 and integers rounded before the scale is."""
    weight = random_weight(0, rows=64, columns=128)
    ours = dequantize(*quantize(weight, 4, 32, torch.float16)).float()
    kind = gguf.GGMLQuantizationType.Q4_0
    theirs = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))
    same = (ours - theirs).abs() <= 1e-3 * theirs.abs()
    assert same.float().mean() > 0.99
    assert (ours - weight).square().mean().item() == pytest.approx((theirs - weight).square().mean().item(), rel=1e-2)


@pytest.mark.parametrize("bits", [4, 8])
def test_what_lies_on_the_levels_comes_back_exactly(bits):
    lowest = -(2 ** (bits - 1))
    integers = torch.arange(lowest, -lowest, dtype=torch.float32).repeat(2, 2)[:, : 2 * -2 * lowest]
    weight = integers * torch.tensor([[0.5], [-0.25]])
    assert torch.equal(dequantize(*quantize(weight, bits, integers.shape[1] // 2, torch.float32)), weight)


def test_two_values_share_a_byte():
    weight = torch.tensor([[-8.0, 7.0, 0.0, 1.0] * 4])
    packed, scale = quantize(weight, 4, 16, torch.float32)
    assert scale.tolist() == [[1.0]]
    assert packed.dtype == torch.uint8
    assert packed.tolist() == [[0xF0, 0x98] * 4]


def test_eight_bits_are_kept_as_they_are():
    weight = torch.tensor([[-128.0, 127.0, 0.0, 1.0], [64.0, 1.0, -1.0, 0.0]])
    packed, scale = quantize(weight, 8, 4, torch.float32)
    assert packed.dtype == torch.int8
    assert packed.tolist() == [[-128, 127, 0, 1], [-128, -2, 2, 0]]
    assert scale.tolist() == [[1.0], [-0.5]]


def test_a_row_of_zeros_stays_zero():
    packed, scale = quantize(torch.zeros(2, 32), 4, 16, torch.float16)
    assert np.isfinite(scale.numpy()).all()
    assert not dequantize(packed, scale).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    weight = random_weight(0)
    weight[1, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        quantize(weight, 8, 64, torch.float32)


def test_groups_must_divide_the_inputs():
    with pytest.raises(ValueError, match="32 does not divide 48"):
        quantize(random_weight(0, columns=48), 4, 32, torch.float32)
