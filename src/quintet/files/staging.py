"""Writing files into a folder all or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quintet.files.names import is_index, is_shard, superseded

_PREFIX = ".staging-"
_ABANDONED_AFTER = 24 * 3600.0  # seconds; no single weight file takes that long to write


@contextmanager
def staged(folder: str | os.PathLike[str], former: Collection[str] = ()) -> Iterator[Path]:
    """A staging folder to write files into; when the block ends, they move into `folder`, flushed to the disk.

    If the block or the move fails, `folder` is as it was before (absent, if it was). A process killed while it writes
    leaves the old files untouched, and its staging folder (hidden, inside `folder`) is removed by a save on a later
    day. Weight files of a former checkpoint are removed once the new ones are in place (see `superseded`), and so are
    the files that `former` names and nobody wrote anew; any other file stays. Only plain files can be staged. Raises
    OSError if `folder` is a file or cannot be written.
    """
    folder = Path(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        staging = _make_staging(folder)
        try:
            yield staging
            _commit(staging, folder, former)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except BaseException:
        for path in created:
            with suppress(OSError):  # somebody else may have put a file there by now
                path.rmdir()
        raise


@contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write files and folders into; when the block ends it appears as `folder`, flushed to the disk.

    If the block fails nothing is left; a process killed while it writes leaves a hidden folder beside `folder`, which a
    later day's save removes. Raises OSError if `folder` is there already and not empty, or cannot be written.
    """
    folder = Path(folder)
    staging = _make_staging(folder.parent)
    inner = staging / folder.name  # made by mkdir, for everybody to read; `staging` is only its owner's
    try:
        inner.mkdir()
        yield inner
        for path in (*inner.rglob("*"), inner):
            _flush(path)
        os.replace(inner, folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"Cannot save into {folder}: it is a file, not a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    except OSError as error:
        raise OSError(error.errno, f"Cannot save into {folder}: {error.strerror}") from error


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*"):
        if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
            shutil.rmtree(path, ignore_errors=True)


def _commit(staging: Path, folder: Path, former: Collection[str]) -> None:
    """Move every staged file into `folder`; on any failure, put back what was there.

    An index goes last, when the shards it names are there. If the new shards take the names of old ones, the old index
    goes first: a process killed in between then leaves shards without an index, which cannot be loaded, rather than an
    index over a mixture of old and new shards, which could.
    """
    names = sorted((path.name for path in staging.iterdir()), key=is_index)
    for name in names:
        _flush(staging / name)
    move = _Move(folder, attic=Path(tempfile.mkdtemp(dir=staging)))
    try:
        if any(is_shard(name) and (folder / name).exists() for name in names):
            for name in filter(is_index, names):
                move.out(name)
        for name in names:
            move.into(staging / name)
        for name in superseded(names, os.listdir(folder), former):
            move.out(name)
        _flush(folder)
    except BaseException:
        move.undo()
        raise


class _Move:
    """Moves of files into and out of a folder that can be taken back. `attic` keeps what they displaced."""

    def __init__(self, folder: Path, attic: Path) -> None:
        self._folder = folder
        self._attic = attic
        self._arrived: list[str] = []

    def out(self, name: str) -> None:
        """Take a file out of the folder, if it is there."""
        with suppress(FileNotFoundError):
            os.replace(self._folder / name, self._attic / name)

    def into(self, source: Path) -> None:
        """Put a file into the folder; one of its name that was there is replaced in one step."""
        target = self._folder / source.name
        if target.is_dir():
            raise IsADirectoryError(f"Cannot write {target}: it is a folder.")
        if target.exists():
            self._keep(target)
        self._arrived.append(source.name)
        os.replace(source, target)

    def undo(self) -> None:
        """Put the folder back as it was."""
        for name in self._arrived:
            (self._folder / name).unlink(missing_ok=True)
        for path in self._attic.iterdir():
            os.replace(path, self._folder / path.name)

    def _keep(self, path: Path) -> None:
        try:
            os.link(path, self._attic / path.name)
        except OSError:  # a file system without hard links
            os.replace(path, self._attic / path.name)


def _flush(path: Path) -> None:
    """Wait until the contents of a file, or the list of files of a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX systems open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
