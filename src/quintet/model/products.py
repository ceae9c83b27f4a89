"""Products of matrices in half precision, for training: PyTorch's, or on a CPU the engine's, where these are faster.

PyTorch's take factors of one type, and on a CPU are compiled for each size that they meet. The engine's round float32
as they read it, so that of weights no copy is made, and sum up in float32.

The left factor is always in the type that is computed in; the right one is what `factor` makes of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from quintet.engine import can_gemm, gemm_into, has_gemm

ROWS_AT_ONCE = 2048  # of a result that is added to another: few enough to stay in the processor's cache


def is_native(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether the engine computes their product."""
    return left.dtype == torch.bfloat16 and can_gemm(left) and can_gemm(right) and has_gemm()


def factor(matrix: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """What a product reads of this matrix, right of `left` or of others like it: worth keeping if there are several."""
    return matrix if is_native(left, matrix) else matrix.to(left.dtype)


def project(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """states (..., inputs) times weight (outputs, inputs), a `factor`: (..., outputs) in the states' type."""
    if not is_native(states, weight):
        return F.linear(states, weight)
    return multiply(as_rows(states), weight.t(), states.dtype).view(*states.shape[:-1], len(weight))


def multiply(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """left (m, k) times right (k, n), as `dtype`."""
    if not is_native(left, right):
        return (left @ right).to(dtype)
    exact = dtype == torch.float32  # of other types, as PyTorch's: by way of the left factor's
    result = left.new_empty(left.shape[0], right.shape[1], dtype=dtype if exact else left.dtype)
    gemm_into(result, left, right)
    return result.to(dtype)


def multiply_into(result: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, adds: bool = False) -> None:
    """Writes left (m, k) times right (k, n) over what `result` holds or, to float32 with `adds`, adds it to that."""
    if is_native(left, right):
        gemm_into(result, left, right, adds)
    elif result.dtype == left.dtype and not adds:
        torch.mm(left, right, out=result)
    else:
        for start in range(0, len(result), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            product = left[rows] @ right
            if adds:
                result[rows] += product
            else:
                result[rows] = product


def as_rows(states: torch.Tensor) -> torch.Tensor:
    """States (..., features) as a matrix (rows, features)."""
    return states.reshape(-1, states.shape[-1])
