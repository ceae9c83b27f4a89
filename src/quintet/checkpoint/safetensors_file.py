"""Reading a .safetensors file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from quintet.checkpoint.errors import CheckpointError
from quintet.checkpoint.header import TensorHeader


class SafetensorsFile:
    """One .safetensors file, mapped into memory.

    `safetensors` checks the whole header on opening (lengths, offsets, overlaps, shapes) and maps the file privately:
    a tensor is a view of the mapping, costs no memory until it is touched, and may be written without touching the
    file. The mapping lives as long as any of its tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = self._map()
        self.metadata: dict[str, str] = self._handle.metadata() or {}
        self._names = frozenset(self._handle.keys())
        written_by = self.metadata.get("format")
        if written_by in ("tf", "flax"):
            raise CheckpointError(f"{path} holds {written_by} weights, laid out otherwise than PyTorch's: convert it.")

    def _map(self) -> safe_open:
        try:
            return safe_open(self.path, framework="pt")
        except SafetensorError as error:
            raise CheckpointError(
                f"{self.path} is not a whole safetensors file ({error}): fetch or save it again."
            ) from error

    @property
    def names(self) -> frozenset[str]:
        """The names of the tensors."""
        return self._names

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that name, a copy-on-write view of the file."""
        try:
            return self._handle.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{self.path}: cannot read the tensor {name!r} ({error}).") from error

    def header(self, name: str) -> TensorHeader:
        """What the file says of the tensor of that name."""
        return TensorHeader.of(self.tensor(name))

    def release(self) -> None:
        """Map the file anew; the former mapping lives as long as any of its tensors."""
        self._handle = self._map()
