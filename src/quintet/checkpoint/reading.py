"""Opening a checkpoint: which files it is made of, and which of them holds which tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Protocol

import torch

from quintet.checkpoint.errors import CheckpointError
from quintet.checkpoint.gguf_file import GgufFile
from quintet.checkpoint.header import TensorHeader
from quintet.checkpoint.pickle_file import PickleFile
from quintet.checkpoint.safetensors_file import SafetensorsFile
from quintet.files.gguf import SUFFIX as GGUF_SUFFIX
from quintet.files.gguf import is_gguf
from quintet.files.names import layouts
from quintet.hub import Source

_LFS_POINTER = b"version https://git-lfs"


class TensorFile(Protocol):
    """One weight file of any format. Opening it reads its table of contents; a tensor is read when it is touched."""

    path: Path
    metadata: dict[str, str]

    @property
    def names(self) -> frozenset[str]:
        """The names of the tensors."""

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU; writing to it must not touch the file."""

    def header(self, name: str) -> TensorHeader:
        """What the file says of the tensor of that name, without reading it."""

    def release(self) -> None:
        """Let go of what was read so far: the memory is free once none of those tensors is left."""


class Checkpoint:
    """The named tensors of a checkpoint, in one file or several. Only the files whose tensors are asked for are opened.

    Iterating gives the names; `len` and `in` work on them. `metadata` is what the writer noted in the file's header or,
    for a sharded checkpoint, in its index.
    """

    def __init__(self, location: Mapping[str, str], open_shard: Callable[[str], TensorFile], metadata: dict[str, str]):
        """Tensor names to file names, and how the file of such a name is opened (called once for each, when needed)."""
        self.metadata = metadata
        self._location = location
        self._open_shard = open_shard
        self._opened: dict[str, TensorFile] = {}

    @classmethod
    def of_file(cls, file: TensorFile) -> Checkpoint:
        """The checkpoint that one file is."""
        checkpoint = cls(dict.fromkeys(sorted(file.names), file.path.name), lambda _: file, file.metadata)
        checkpoint._opened[file.path.name] = file
        return checkpoint

    def __iter__(self) -> Iterator[str]:
        return iter(self._location)

    def __len__(self) -> int:
        return len(self._location)

    def __contains__(self, name: object) -> bool:
        return name in self._location

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._location)

    @property
    def files(self) -> list[Path]:
        """The weight files opened so far."""
        return [file.path for file in self._opened.values()]

    @property
    def nbytes(self) -> int:
        """The size of all tensors together, in bytes. Opens every file (and reads none of the tensors)."""
        return sum(self.header(name).nbytes for name in self)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU, memory-mapped: nothing is read until it is touched.

        Writing to it does not change the file. Raises KeyError for an unknown name, CheckpointError for a file that
        cannot be read, FileNotFoundError for a missing shard.
        """
        return self._file(name).tensor(name)

    def release(self) -> None:
        """Let go of what was read so far: the memory is free once none of those tensors is left.

        Mapped files count as memory of the process from the moment they are read.
        """
        for file in self._opened.values():
            file.release()

    def header(self, name: str) -> TensorHeader:
        """The tensor of that name as it is stored: shape, type and bytes, nothing read; raises as `tensor`."""
        return self._file(name).header(name)

    def shape(self, name: str) -> torch.Size:
        """The shape of the tensor of that name; raises as `tensor`."""
        return self.header(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of the tensor of that name; raises as `tensor`."""
        return self.tensor(name).dtype

    def _file(self, name: str) -> TensorFile:
        filename = self._location[name]
        if filename not in self._opened:
            file = self._open_shard(filename)
            promised = {tensor for tensor, holder in self._location.items() if holder == filename}
            if absent := sorted(promised - file.names):
                raise CheckpointError(
                    f"{file.path} lacks tensors that the checkpoint's index places there: {', '.join(absent[:5])}"
                    f"{', ...' if len(absent) > 5 else ''}. The files belong to different checkpoints."
                )
            self._opened[filename] = file
        return self._opened[filename]


def open_checkpoint(
    source: Source, *, use_safetensors: bool | None = None, variant: str | None = None, gguf_file: str | None = None
) -> Checkpoint:
    """Open the weights that `source` holds; downloads the index or the single file, and shards when they are needed.

    Looked for in the reference's order: model.safetensors, its shards, pytorch_model.bin, its shards. `use_safetensors`
    restricts that to one format; `variant` ("fp16") looks for model.fp16.safetensors and so on. `gguf_file` names a
    GGUF file to open instead; `source` may also be such a file. Raises FileNotFoundError if there are no weights,
    CheckpointError if they cannot be read.
    """
    if gguf_file is not None:
        return Checkpoint.of_file(open_file(source.file(gguf_file)))
    if is_gguf(source.name_or_path):
        return Checkpoint.of_file(open_file(Path(source.name_or_path)))
    candidates = layouts(variant, use_safetensors=use_safetensors)
    for layout in candidates:
        if (path := source.find(layout.single)) is not None:
            return Checkpoint.of_file(open_file(path))
        if (path := source.find(layout.index)) is not None:
            return _sharded(source, path)
    raise source.missing(*(name for layout in candidates for name in (layout.single, layout.index)))


def open_file(path: Path) -> TensorFile:
    """Open one weight file, by its suffix: .safetensors, .gguf, else a pickle."""
    with path.open("rb") as stream:
        start = stream.read(len(_LFS_POINTER))
    if not start:
        raise CheckpointError(f"{path} is empty: fetch or save it again.")
    if start == _LFS_POINTER:
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder.")
    formats: dict[str, Callable[[Path], TensorFile]] = {".safetensors": SafetensorsFile, GGUF_SUFFIX: GgufFile}
    return formats.get(path.suffix, PickleFile)(path)


def _sharded(source: Source, index_path: Path) -> Checkpoint:
    location, metadata = read_index(index_path)
    return Checkpoint(location, lambda filename: open_file(source.file(filename)), metadata)


def read_index(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The index of a sharded checkpoint: tensor names to file names, and the writer's notes.

    Raises CheckpointError unless it is such an index, and every file lies in its folder or below.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}).") from error
    location = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(location, dict) or not location:
        raise CheckpointError(f"{path} has no `weight_map` from tensor names to file names.")
    for filename in location.values():
        if not isinstance(filename, str) or not _stays_inside(filename):
            raise CheckpointError(f"{path} names the file {filename!r}: a shard must lie in the checkpoint's folder.")
    notes = index.get("metadata") or {}
    return location, {key: str(value) for key, value in notes.items()}


def _stays_inside(filename: str) -> bool:
    path = PureWindowsPath(filename)  # knows the separators of every system, and drives
    return bool(path.name) and not path.anchor and ".." not in path.parts
