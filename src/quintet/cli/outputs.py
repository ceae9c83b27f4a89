"""Where answers go: standard output or a file, a line each, written as soon as they are there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import IO

from quintet.cli.failures import Failure


class Output:
    """Lines to standard output or to a file, which is opened, and emptied, when the first line is there.

    Whatever fails before leaves a file of that name as it was. Without a line and without a failure it is empty in the
    end. Raises Failure at once for a file that may not be written, or that is there and not to be replaced, and for a
    standard output that is closed.
    """

    def __init__(self, path: Path | None, overwrite: bool) -> None:
        self._path = path
        self._stream: IO[str] | None = sys.stdout if path is None else None
        if path is None and sys.stdout is None:
            raise Failure("standard output is closed: give --output")
        if path is not None:
            refuse_existing(path, overwrite)
            if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
                raise Failure(f"cannot write {path}: choose another name, in a folder that is there")

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._path is not None and (kind is None or self._stream is not None):
            self._opened().close()

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads along."""
        return self._stream is not None and self._stream.isatty()

    def write_line(self, line: str) -> None:
        """One answer, seen at once by whoever reads."""
        stream = self._opened()
        stream.write(line + "\n")
        stream.flush()

    def _opened(self) -> IO[str]:
        if self._stream is None:
            assert self._path is not None
            self._stream = self._path.open("w", encoding="utf-8")
        return self._stream


def refuse_unwritable_folder(folder: Path) -> None:
    """Failure if a folder cannot be made, or nothing be written into it: said before the work, not after."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise Failure(f"cannot write into the folder {folder}: {nearest} is {_obstacle(nearest)}")


def _obstacle(path: Path) -> str:
    return "not yours to write to" if path.is_dir() else "a file"


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Failure if the file, or something in the folder, is there. Devices and pipes hold nothing to lose."""
    holds = any(path.iterdir()) if path.is_dir() else path.is_file()
    if holds and not overwrite:
        raise Failure(f"{path} is there already: choose another name, or add --overwrite")
