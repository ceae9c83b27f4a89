"""Where answers go: standard output or a file, a line each, written as soon as they are there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from quintet.cli.failures import Failure


@contextmanager
def opened(path: Path | None, overwrite: bool) -> Iterator[IO[str]]:
    """The stream to write to. A file that is there is replaced only with `overwrite`; what fails, fails here.

    A file that nothing was written to does not stay.
    """
    if path is None:
        yield sys.stdout
        return
    refuse_existing(path, overwrite)
    with path.open("w", encoding="utf-8") as stream:
        try:
            yield stream
        finally:
            written = stream.tell()
    if not written:
        path.unlink()


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Failure if the file, or something in the folder, is there."""
    holds = any(path.iterdir()) if path.is_dir() else path.exists()
    if holds and not overwrite:
        raise Failure(f"{path} is there already: choose another name, or add --overwrite")


def write_line(stream: IO[str], line: str) -> None:
    """One answer, seen at once by whoever reads."""
    stream.write(line + "\n")
    stream.flush()
