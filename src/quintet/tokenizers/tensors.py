"""Between Python lists and arrays of numpy or torch. torch is imported only when tensors of it are asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from quintet.tokenizers.options import TensorType


def is_torch_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor: it cannot be one while torch is not loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_tensor(value: object) -> bool:
    """Whether `value` is a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or is_torch_tensor(value)


def to_python(value: Any) -> Any:
    """Tensors, arrays and numpy scalars, inside lists and mappings too, as plain Python lists and numbers."""
    if isinstance(value, (list, tuple)):
        if value and type(value[0]) is int:
            return list(value)
        return [to_python(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_python(item) for key, item in value.items()}
    if is_tensor(value) or isinstance(value, np.generic):
        return value.tolist()
    return value


def tensor_type_of(value: Any) -> TensorType | None:
    """Which tensors `value` is made of, looking into nested lists; None for plain integers and for empty lists."""
    while isinstance(value, (list, tuple)):
        value = next((item for item in value if not (isinstance(item, (list, tuple)) and not item)), 0)
    if is_torch_tensor(value):
        return TensorType.PYTORCH
    if isinstance(value, (np.ndarray, np.generic)):
        return TensorType.NUMPY
    if isinstance(value, int):
        return None
    raise ValueError(f"expected token ids as int, numpy array or torch tensor, got {type(value).__name__}: {value!r}")


def as_tensor(value: Any, tensor_type: TensorType) -> Any:
    """`value` as a tensor of that type; one that is already a tensor of the type is returned as it is.

    Rows of unequal length raise ValueError for torch and become an array of arrays for numpy, as in the reference.
    Without any number in it the tensor is of int64, for it holds ids; the reference makes it float.
    """
    if tensor_type is TensorType.NUMPY:
        return value if isinstance(value, np.ndarray) else _numpy_array(value)
    return value if is_torch_tensor(value) else _torch_tensor(value)


def _numpy_array(value: Any) -> np.ndarray:
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple, np.ndarray)):
        lengths = {len(row) for row in value}
        if len(lengths) > 1:
            return np.asarray([np.asarray(row) for row in value], dtype=object)
    return _integers_if_empty(np.asarray(value))


def _torch_tensor(value: Any) -> Any:
    import torch

    if isinstance(value, (list, tuple)) and value and isinstance(value[0], np.ndarray):
        return torch.from_numpy(np.array(value))
    array = _integers_if_empty(np.array(value))
    # numpy reads nested lists of integers several times faster than torch.tensor does.
    if array.dtype.kind in "biu":
        return torch.from_numpy(array)
    return torch.tensor(value)


def _integers_if_empty(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64) if array.size == 0 else array
