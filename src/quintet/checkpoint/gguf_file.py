"""Reading a GGUF file: llama.cpp's format, with weights in blocks of a few bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quintet.checkpoint.errors import CheckpointError
from quintet.checkpoint.gguf_names import from_gguf
from quintet.checkpoint.header import TensorHeader
from quintet.files.gguf import GgufTensor, read_gguf_header

PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""Types that are read as they stand, by the format's numbers; all others are unpacked to float32 by its library."""


class GgufFile:
    """One GGUF file of a T5 model or encoder, under the names of checkpoints, mapped into memory.

    A tensor of plain floats is a copy-on-write view of the file; one in blocks is unpacked when it is read. Raises
    CheckpointError for a file that is cut off or holds an unknown type, ImportError where blocks need the library.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        tensors = read_gguf_header(path).tensors
        self._tensors = {ours: tensors[theirs] for theirs, ours in from_gguf(tensors).items()}
        self.release()
        for name, tensor in self._tensors.items():
            if tensor.start + math.prod(self._stored_shape(name, tensor)) > self._data.size:
                raise CheckpointError(f"{path} is cut off: {name!r} is not whole. Fetch it again.")

    @property
    def names(self) -> frozenset[str]:
        """The names of the tensors."""
        return frozenset(self._tensors)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that name; CheckpointError for a type that the library cannot unpack."""
        tensor = self._tensors[name]
        shape = self._stored_shape(name, tensor)
        stored = self._data[tensor.start : tensor.start + math.prod(shape)].reshape(shape)
        if tensor.kind in PLAIN:
            return torch.from_numpy(stored).view(PLAIN[tensor.kind])
        library = _library(self.path)
        kind = library.GGMLQuantizationType(tensor.kind)
        try:
            return torch.from_numpy(library.quants.dequantize(stored, kind))
        except NotImplementedError as error:
            raise CheckpointError(f"{self.path}: {name!r} is of type {kind.name}, which cannot be unpacked.") from error

    def header(self, name: str) -> TensorHeader:
        """What the file says of the tensor of that name; blocks are not unpacked."""
        tensor = self._tensors[name]
        nbytes = math.prod(self._stored_shape(name, tensor))
        if tensor.kind in PLAIN:
            dtype = str(PLAIN[tensor.kind]).removeprefix("torch.")
        else:
            dtype = _library(self.path).GGMLQuantizationType(tensor.kind).name
        return TensorHeader(torch.Size(tensor.shape), dtype, nbytes)

    def release(self) -> None:
        """Map the file anew; the former mapping lives as long as any view of it."""
        self._data = np.memmap(self.path, mode="c", dtype=np.uint8)

    def _stored_shape(self, name: str, tensor: GgufTensor) -> tuple[int, ...]:
        """The tensor's shape, with bytes instead of values in the last dimension."""
        *rows, columns = tensor.shape
        if tensor.kind in PLAIN:
            return (*rows, columns * PLAIN[tensor.kind].itemsize)
        sizes = _library(self.path).GGML_QUANT_SIZES
        if tensor.kind not in sizes or columns % sizes[tensor.kind][0]:
            raise CheckpointError(f"{self.path}: {name!r} has an unknown type, or rows that are no whole blocks.")
        values, size = sizes[tensor.kind]
        return (*rows, columns // values * size)


def _library(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f"{path.name} holds quantized weights; to read them: pip install 'quintet[gguf]'") from error
    return gguf
