"""Products of two matrices in bfloat16, for training."""

from __future__ import annotations

import torch

from quintet.engine.library import TYPES, View, load_library


def has_gemm() -> bool:
    """Whether the engine is there and faster at it than PyTorch's products: on processors with AMX."""
    library = load_library()
    return library is not None and library.instruction_set == "amx"


def gemm_into(result: torch.Tensor, left: torch.Tensor, right: torch.Tensor, adds: bool = False) -> None:
    """result = left (m, k) times right (k, n): both rounded to bfloat16, their products summed in float32.

    All are float32 or bfloat16, on the CPU. With `adds` the product is added to what a float32 result holds. Gradients
    are not recorded.

    Raises ValueError for shapes that do not fit, other types, a result with gaps between the numbers of its rows and of
    its columns, and a sum in bfloat16; RuntimeError without memory or threads.
    """
    shape = (left.shape[0], right.shape[1])
    if left.shape[1] != right.shape[0] or result.shape != shape:
        raise ValueError(f"{tuple(left.shape)} times {tuple(right.shape)} does not make {tuple(result.shape)}")
    for tensor in (result, left, right):
        if not can_gemm(tensor):
            raise ValueError(f"products are of float32 and bfloat16 on the CPU, got {tensor.dtype} ({type(tensor)})")
    if 1 not in result.stride():
        raise ValueError(f"the result's rows or columns must lie side by side, got strides {result.stride()}")
    if adds and result.dtype != torch.float32:
        raise ValueError(f"a product is added to float32 only, got {result.dtype}")
    library = load_library()
    if library is None:
        raise RuntimeError("the native engine was not built")
    left, right = _side_by_side(left), _side_by_side(right)
    library.gemm(_view(left), _view(right), _view(result), adds)


def can_gemm(tensor: torch.Tensor) -> bool:
    """Whether this is a plain tensor of a type that products are computed of, in memory that can be read."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )


def _side_by_side(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, with the numbers of its rows or of its columns one after the other."""
    return matrix if 1 in matrix.stride() else matrix.contiguous()


def _view(matrix: torch.Tensor) -> View:
    return View(matrix.data_ptr(), *matrix.shape, *matrix.stride(), TYPES[matrix.dtype])
