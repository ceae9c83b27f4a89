"""Products of matrices in half precision, for training: PyTorch's, or on a CPU the engine's, where these are faster.

PyTorch's take factors of one type, and on a CPU are compiled for each size that they meet. The engine's round float32
as they read it, so that of weights no copy is made, and sum up in float32.

The left factor is always in the type that is computed in; the right one is what `factor` makes of it.
"""

from __future__ import annotations

import torch

from quintet.engine import gemm_into, has_gemm

LONG_SUM = 8192  # numbers; more take oneDNN 30 to 50 ms to compile for AMX, unless the product is written transposed
ROWS_AT_ONCE = 2048  # of a result that is added to another: few enough to stay in the processor's cache


def is_native(left: torch.Tensor) -> bool:
    """Whether the engine computes products of this left factor."""
    return left.dtype == torch.bfloat16 and left.device.type == "cpu" and has_gemm()


def factor(matrix: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """What a product reads of this matrix, right of `left` or of others like it: worth keeping if there are several."""
    if matrix.dtype == torch.float32 and is_native(left):
        return matrix
    return matrix.to(left.dtype)


def multiply(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """left (m, k) times right (k, n), as `dtype`."""
    if is_native(left):
        result = left.new_empty(left.shape[0], right.shape[1], dtype=dtype)
        gemm_into(result, left, right)
        return result
    if left.shape[1] > LONG_SUM:
        return (right.t() @ left.t()).t().to(dtype)
    return (left @ right).to(dtype)


def multiply_into(result: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, adds: bool = False) -> None:
    """Writes left (m, k) times right (k, n) over what `result` holds or, with `adds`, adds it to that."""
    if is_native(left):
        gemm_into(result, left, right, adds)
        return
    if result.dtype == left.dtype and not adds:
        torch.mm(left, right, out=result)
        return
    for start in range(0, len(result), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        product = left[rows] @ right
        if adds:
            result[rows] += product
        else:
            result[rows] = product
