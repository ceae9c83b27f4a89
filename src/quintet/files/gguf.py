"""The header of a GGUF file, llama.cpp's format: metadata, and where each tensor lies.

Versions 2 and 3, little-endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The format's own library
reads headers too, but makes objects of every token of a vocabulary, which takes many seconds; here they are skipped.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of metadata by number, as `struct` names them."""
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class GgufTensor:
    """A tensor's shape (rows before columns, as in torch), the number of its type, and where in the file it starts."""

    shape: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata that are numbers, flags or strings (lists are left out), and tensors by name."""

    fields: dict[str, Any]
    tensors: dict[str, GgufTensor]


def is_gguf(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this is an existing GGUF file rather than a folder or a repository."""
    return Path(name_or_path).suffix == SUFFIX and Path(name_or_path).is_file()


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file; OSError if it is damaged or something else."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(_Reader(data))
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise OSError(f"{path} is not a whole GGUF file ({error}): fetch or convert it again.") from error


class _Reader:
    """Reads one value after the other; struct.error past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 0

    def scalar(self, code: str) -> Any:
        layout = f"<{code}"
        [value] = struct.unpack_from(layout, self._data, self.position)
        self.position += struct.calcsize(layout)
        return value

    def raw(self, count: int) -> bytes:
        return struct.unpack(f"{count}s", self._data[self._skip(count) : self.position])[0]

    def string(self) -> str:
        return str(self.raw(self.scalar("Q")), "utf-8")

    def field(self) -> Any:
        """The next value of metadata, with its type in front; None for a list, which is skipped."""
        kind = self.scalar("I")
        if kind == ARRAY:
            self._skip_array(self.scalar("I"), self.scalar("Q"))
            return None
        return self.string() if kind == STRING else self.scalar(_scalar_code(kind))

    def _skip_array(self, kind: int, count: int) -> None:
        if kind != STRING:
            self._skip(count * struct.calcsize(f"<{_scalar_code(kind)}"))
            return
        for _ in range(count):
            self._skip(self.scalar("Q"))

    def _skip(self, count: int) -> int:
        """Moves on; returns where it was."""
        before = self.position
        self.position += count
        return before


def _scalar_code(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"there is no metadata type {kind}")
    return SCALARS[kind]


def _header(reader: _Reader) -> GgufHeader:
    if reader.raw(len(MAGIC)) != MAGIC:
        raise ValueError("it does not start with GGUF")
    version = reader.scalar("I")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}; {' and '.join(map(str, VERSIONS))} can be read")
    tensor_count, field_count = reader.scalar("Q"), reader.scalar("Q")
    fields = {reader.string(): reader.field() for _ in range(field_count)}
    listed = [(reader.string(), _tensor(reader)) for _ in range(tensor_count)]
    alignment = fields.get("general.alignment") or DEFAULT_ALIGNMENT
    base = -(-reader.position // alignment) * alignment
    tensors = {name: GgufTensor(shape, kind, base + offset) for name, (shape, kind, offset) in listed}
    return GgufHeader({name: value for name, value in fields.items() if value is not None}, tensors)


def _tensor(reader: _Reader) -> tuple[tuple[int, ...], int, int]:
    """Shape, type, and offset from where the data start."""
    sizes = [reader.scalar("Q") for _ in range(reader.scalar("I"))]
    return tuple(reversed(sizes)), reader.scalar("I"), reader.scalar("Q")
