"""Records: rows of named fields, from files of lines, tables, and data sets of the `datasets` library."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

Lines = Iterator[tuple[int, str]]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Record:
    """A row: its fields by name, and where it was found, for messages."""

    fields: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Source:
    """Where records are.

    `data` is a file or a list of files (.jsonl, .ndjson, .tsv, .csv, .txt, each also with .gz, and .parquet), a folder
    that `datasets` has saved, or the name of a data set of the hub, with its `config` and `split`.

    A line of a .txt file is a record with the one field "text"; empty lines are none. The first line of a .tsv or .csv
    file names its columns, unless `columns` does. Quotes mean something in .csv only.
    """

    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    columns: tuple[str, ...] = ()
    config: str | None = None
    split: str | None = None

    def records(self) -> Iterator[Record]:
        """All records in order. Raises ValueError, naming file and line, for what cannot be read."""
        for path in self._files():
            yield from _read_file(path, self.columns)
        if not self._files():
            where = f"{self.data}, split {self.split}, row" if self.split else f"{self.data}, row"
            for number, fields in enumerate(self._data_set()):
                yield Record(fields, f"{where} {number}")

    def fingerprint(self) -> str:
        """A hash of what the records are: of the content of files, or the one that `datasets` keeps."""
        digest = blake2b(json.dumps(self.columns).encode(), digest_size=16)
        for path in self._files():
            digest.update(_suffix(path).encode())
            with _open(path, decompress=False) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        if not self._files():
            digest.update(self._data_set()._fingerprint.encode())
        return digest.hexdigest()

    def _files(self) -> list[Path]:
        """The files, in order; none if `data` names a data set."""
        if isinstance(self.data, (str, os.PathLike)):
            path = Path(self.data)
            if not path.is_file() and _suffix(path) not in SUFFIXES:
                return []
            return [path]
        if not self.data:
            raise ValueError("the list of files to read is empty")
        return [Path(path) for path in self.data]

    def _data_set(self) -> Any:
        library = _library()
        name = os.fspath(cast(str, self.data))
        if self.columns:
            raise ValueError(f"columns are for .tsv and .csv files; {name} is a data set, whose columns have names")
        if Path(name).is_dir():
            found = library.load_from_disk(name)
        else:
            found = library.load_dataset(name, self.config, split=self.split)
        if not isinstance(found, Mapping):
            return found
        if self.split not in found:
            raise ValueError(f"{name} has no split {self.split!r}; it has {', '.join(found)}")
        return found[self.split]


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError('data sets and Parquet files need datasets: pip install "quintet[train]"') from error


def _suffix(path: Path) -> str:
    """What kind of file this is; .gz only says how it is packed."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


def _read_file(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: the name must end in one of {', '.join(SUFFIXES)}; those of text may have .gz behind"
        )
    if columns and suffix not in TABLES:
        raise ValueError(f"columns are for .tsv and .csv files, not for {path}")
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    for number, fields in LINES[suffix](path, _lines(path), columns):
        yield Record(fields, f"{path}, line {number}")


def _open(path: Path, decompress: bool = True) -> BinaryIO:
    opener = gzip.open if decompress and path.suffix == ".gz" else open
    try:
        return cast(BinaryIO, opener(path, "rb"))
    except OSError as error:
        raise type(error)(error.errno, f"cannot read the data in {path}: {error.strerror}") from error


def _lines(path: Path) -> Lines:
    """The lines of a text file with their numbers from 1; decoded one by one, so that errors name the line."""
    number = 0
    with _open(path) as file:
        try:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number} is not valid UTF-8: {error.reason}") from error
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is damaged after line {number}: {error}") from error


def _json_lines(path: Path, lines: Lines, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{path}, line {number} must be a JSON object, got {line:.80}")
        yield number, fields


def _text(path: Path, lines: Lines, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((number, {"text": line}) for number, line in lines if line.strip())


def _tsv(path: Path, lines: Lines, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return _named(path, ((number, line.split("\t")) for number, line in lines if line), columns)


def _csv(path: Path, lines: Lines, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # The reader wants the ends of lines back: one within quotes belongs to the value.
    reader = csv.reader((line + "\n" for _, line in lines), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num} is not CSV: {error}") from error

    return _named(path, rows(), columns)


def _named(
    path: Path, rows: Iterator[tuple[int, list[str]]], columns: Sequence[str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with the names of their columns, taken from the first row unless given."""
    names = columns or next(rows, (0, []))[1]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two columns have one name, of {', '.join(names)}")
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(f"{path}, line {number} has {len(row)} columns, not {len(names)}: {', '.join(names)}")
        yield number, dict(zip(names, row, strict=True))


def _parquet(path: Path) -> Iterator[Record]:
    _open(path).close()  # says clearly what is wrong with the path, if anything is
    rows = _library().load_dataset("parquet", data_files=os.fspath(path), split="train", streaming=True)
    for number, fields in enumerate(rows):
        yield Record(fields, f"{path}, row {number}")


Reader = Callable[[Path, Lines, Sequence[str]], Iterator[tuple[int, Mapping[str, Any]]]]

TABLES = (".tsv", ".csv")
LINES: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".tsv": _tsv,
    ".csv": _csv,
    ".txt": _text,
}
SUFFIXES = (*LINES, ".parquet")
