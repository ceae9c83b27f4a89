"""What a weight file says of a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TensorHeader:
    """A tensor as it is stored: its shape, the name of its type (torch's, or one of GGUF's), its bytes in the file."""

    shape: torch.Size
    dtype: str
    nbytes: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorHeader:
        """Of a tensor that is a view of the file."""
        return cls(tensor.shape, str(tensor.dtype).removeprefix("torch."), tensor.nbytes)
