"""Small checkpoints to read and write."""

from __future__ import annotations

import struct
from pathlib import Path

import torch

from quintet.checkpoint import Checkpoint, open_checkpoint
from quintet.hub import Source


def some_tensors(seed: int = 0, count: int = 6, rows: int = 8) -> dict[str, torch.Tensor]:
    """Tensors of 16 * rows bytes each."""
    generator = torch.Generator().manual_seed(seed)
    return {f"layer.{i}.weight": torch.randn(rows, 4, generator=generator) for i in range(count)}


def opened(folder: Path, **options: object) -> Checkpoint:
    return open_checkpoint(Source(folder), **options)  # type: ignore[arg-type]


def read(folder: Path, **options: object) -> dict[str, torch.Tensor]:
    checkpoint = opened(folder, **options)
    return {name: checkpoint.tensor(name) for name in checkpoint}


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def raw_safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file put together by hand, so that it may be wrong."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data
