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

    All are float32 or bfloat16, on the CPU; the rows of the result lie one after the other. With `adds` the product is
    added to what a float32 result holds. Gradients are not recorded.
    """
    library = load_library()
    assert library is not None
    left, right = _with_lines(left), _with_lines(right)
    library.gemm(_view(left), _view(right), _view(result), adds)


def _with_lines(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, its rows or its columns one number after the other."""
    return matrix if 1 in matrix.stride() else matrix.contiguous()


def _view(matrix: torch.Tensor) -> View:
    return View(matrix.data_ptr(), *matrix.shape, *matrix.stride(), TYPES[matrix.dtype])
