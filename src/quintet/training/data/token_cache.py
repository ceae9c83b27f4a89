"""Tokens in files that are mapped into memory: written once, read by every epoch and every process.

A cache is a folder. Each of its columns is two files: all ids one after another, of 2 bytes where the vocabulary allows
it, else 4; and the offsets at which rows begin. cache.json says what is there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_INDEX = "cache.json"
_UNFINISHED = ".unfinished-"
_ABANDONED_AFTER = 24 * 3600.0  # seconds without a batch of tokens


@dataclass(frozen=True)
class TokenColumn:
    """Rows of token ids: `ids` (tokens,) of all rows, `offsets` (rows + 1,) of their beginnings and the last end."""

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """A row's ids (length,), not copied."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens each row has (rows,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class TokenCache:
    """A cache that was opened: columns of equally many rows, and the fingerprint it was made under."""

    fingerprint: str
    columns: dict[str, TokenColumn]

    @classmethod
    def open(cls, folder: Path) -> TokenCache:
        """Map a cache into memory. Raises ValueError if files were damaged."""
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            columns = {name: _map(folder, name, *described) for name, described in index["columns"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the token cache {folder} is damaged; delete it to make it anew: {error}") from error
        return cls(index["fingerprint"], columns)

    @classmethod
    def write(
        cls,
        folder: Path,
        fingerprint: str,
        names: Sequence[str],
        vocab_size: int,
        batches: Iterable[Sequence[Sequence[Sequence[int]]]],
    ) -> TokenCache:
        """Write a cache and open it. Each batch has, for each of the names, its rows of ids from 0 to vocab_size - 1.

        The folder appears when it is complete. If another process was faster, its folder is taken.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
        try:
            _write(unfinished, fingerprint, names, np.uint16 if vocab_size <= 1 << 16 else np.uint32, batches)
            _publish(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return cls.open(folder)


def _map(folder: Path, name: str, dtype: str, tokens: int) -> TokenColumn:
    # As plain arrays: each slice of a memmap would be one, which takes several times as long.
    ids = np.memmap(folder / f"{name}.ids", np.dtype(dtype), mode="r").view(np.ndarray)
    offsets = np.load(folder / f"{name}.offsets.npy", mmap_mode="r").view(np.ndarray)
    if not len(ids) == tokens == offsets[-1]:
        raise ValueError(f"column {name} has {len(ids)} of {tokens} ids")
    return TokenColumn(ids, offsets)


def _write(
    folder: Path,
    fingerprint: str,
    names: Sequence[str],
    dtype: type[np.unsignedinteger],
    batches: Iterable[Sequence[Sequence[Sequence[int]]]],
) -> None:
    lengths: list[list[np.ndarray]] = [[] for _ in names]
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{name}.ids", "wb")) for name in names]
        for batch in batches:
            for column, rows in enumerate(batch):
                lengths[column].append(np.array([len(row) for row in rows], dtype=np.int64))
                with _writing(folder):
                    files[column].write(_flat(rows, dtype).tobytes())
                    files[column].flush()
    columns = {}
    with _writing(folder):
        for name, counts in zip(names, lengths, strict=True):
            offsets = np.concatenate([np.zeros(1, dtype=np.int64), *counts]).cumsum()
            np.save(folder / f"{name}.offsets.npy", offsets)
            columns[name] = (np.dtype(dtype).str, int(offsets[-1]))
        index = {"fingerprint": fingerprint, "columns": columns}
        (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says what could not be written: an error of a write names no file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write the token cache in {folder.parent}: {error.strerror}") from error


def _flat(rows: Sequence[Sequence[int]], dtype: type[np.unsignedinteger]) -> np.ndarray:
    flat = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    if flat.size and not 0 <= flat.min() <= flat.max() <= np.iinfo(dtype).max:
        raise ValueError(f"token ids go from {flat.min()} to {flat.max()}, which the vocabulary's size does not allow")
    return flat.astype(dtype)


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes have left that were killed while they wrote."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with suppress(FileNotFoundError):  # it is being finished at this moment
            last = max(file.stat().st_mtime for file in (path, *path.iterdir()))
            if time.time() - last > _ABANDONED_AFTER:
                shutil.rmtree(path)


def _publish(unfinished: Path, folder: Path) -> None:
    for path in unfinished.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    try:
        os.rename(unfinished, folder)
    except OSError:
        if not (folder / _INDEX).is_file():
            raise
