"""Reading a .bin file: a pickled state dict, loaded without running any code that it may hold."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from quintet.checkpoint.errors import CheckpointError
from quintet.checkpoint.header import TensorHeader


class PickleFile:
    """One .bin file. Memory-mapped copy-on-write if it is a zip archive (torch >= 1.6 wrote it), else read whole.

    Tensors that shared a storage when they were saved share it again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._tensors = _load(path)

    @property
    def names(self) -> frozenset[str]:
        """The names of the tensors."""
        return frozenset(self._tensors)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that name."""
        return self._tensors[name]

    def header(self, name: str) -> TensorHeader:
        """What the file says of the tensor of that name."""
        return TensorHeader.of(self.tensor(name))

    def release(self) -> None:
        """Nothing: all tensors of a pickle are held together, and reading it anew would cost more than it gives."""


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds more than tensors, and unpickling that could run code. "
            "Nothing of it was run. If you trust its origin, convert it to safetensors."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything: KeyError, AssertionError, struct.error, ...
        raise CheckpointError(f"{path} is not a whole PyTorch file ({error}): fetch or save it again.") from error
    if not isinstance(state, Mapping) or not all(_is_entry(name, value) for name, value in state.items()):
        raise CheckpointError(f"{path} is not a state dict: it must hold nothing but named tensors.")
    return {name: tensor.detach() for name, tensor in state.items()}


def _is_entry(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor)
