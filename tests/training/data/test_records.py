"""Records from every kind of file and from data sets; what cannot be read is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quintet.training.data.records import Source
from tests.training.data.toys import write_lines

ROWS = [{"source": "a b", "target": "ä"}, {"source": 'say "c"', "target": "d, e"}]


def read(path: Any, **options: Any) -> list[Any]:
    return [dict(record.fields) for record in Source(path, **options).records()]


def write(folder: Path, suffix: str) -> Path:
    path = folder / f"data{suffix}"
    if suffix == ".parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    elif suffix in (".jsonl", ".ndjson"):
        write_lines(path, *ROWS)
    else:
        delimiter, quoting = (",", csv.QUOTE_MINIMAL) if suffix == ".csv" else ("\t", csv.QUOTE_NONE)
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, quoting=quoting, quotechar=None if delimiter == "\t" else '"')
        writer.writerows([list(ROWS[0]), *(list(row.values()) for row in ROWS)])
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".tsv", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_records(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path, suffix)) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".tsv", ".csv"])
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    packed = tmp_path / f"data{suffix}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    assert read(packed) == ROWS


def test_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes("\ufeffone\r\n\n  two\x0c \nthree".encode())
    assert read(path) == [{"text": "one"}, {"text": "  two\x0c "}, {"text": "three"}]


def test_several_files_are_one_source(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.txt", "one")
    second = write_lines(tmp_path / "b.jsonl", {"text": "two"})
    records = list(Source([first, str(second)]).records())
    assert [record.fields["text"] for record in records] == ["one", "two"]
    assert [record.where for record in records] == [f"{first}, line 1", f"{second}, line 1"]


def test_columns_name_what_a_table_does_not(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.tsv", 'Go.\t"Geh', "Run.\tLauf.")
    assert read(path, columns=("en", "de")) == [{"en": "Go.", "de": '"Geh'}, {"en": "Run.", "de": "Lauf."}]


@given(
    rows=st.lists(st.lists(st.text(st.characters(exclude_characters="\0\r", codec="utf-8")), min_size=2, max_size=2))
)
def test_csv_reads_what_csv_writes(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    assert [list(row.values()) for row in read(path, columns=("a", "b"))] == rows


def test_a_value_over_several_lines_counts_them(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.csv", "a,b", '"one\ntwo",x', "y,z")
    records = list(Source(path).records())
    assert records[0].fields == {"a": "one\ntwo", "b": "x"}
    assert [record.where for record in records] == [f"{path}, line 3", f"{path}, line 4"]


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "splits")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == ROWS
    records = list(Source(tmp_path / "splits", split="test").records())
    assert [record.fields for record in records] == ROWS
    assert records[1].where == f"{tmp_path / 'splits'}, split test, row 1"
    with pytest.raises(ValueError, match="no split 'train'; it has test"):
        list(Source(tmp_path / "splits", split="train").records())


def test_data_sets_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load(*names: Any, **options: Any) -> Any:
        calls.append((names, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read("some/data", config="de", split="train") == ROWS
    assert calls == [(("some/data", "de"), {"split": "train"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a"\n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"a": 1}\n\n[1]\n', r"a\.jsonl, line 3 must be a JSON object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl, line 2 is not valid UTF-8"),
        ("a.tsv", b"a\tb\n1\t2\n1\n", r"a\.tsv, line 3 has 1 columns, not 2: a, b"),
        ("a.csv", b'a,b\n1,2\n"1,2\n', r"a\.csv, line 3 is not CSV"),
        ("a.csv", b"a,a\n1,2\n", r"a\.csv: two columns have one name"),
        ("a.txt.gz", gzip.compress(b"one\n" * 9999, mtime=0)[:-20], r"a\.txt\.gz is damaged"),
        ("a.txt.gz", b"one\n", r"a\.txt\.gz is damaged"),
        ("a.xml", b"", r"the name must end in one of \.jsonl, \.ndjson, \.tsv, \.csv, \.txt, \.parquet"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(Source(tmp_path / name).records())


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"cannot read the data in .*{name}"):
        list(Source(tmp_path / name).records())
    with pytest.raises(FileNotFoundError, match=f"cannot read the data in .*{name}"):
        Source(tmp_path / name).fingerprint()


def test_columns_only_for_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"columns are for \.tsv and \.csv"):
        list(Source(write_lines(tmp_path / "a.txt", "one"), columns=("a",)).records())
    with pytest.raises(ValueError, match=r"columns are for \.tsv and \.csv"):
        list(Source("some/data", columns=("a",)).records())


def test_no_files() -> None:
    with pytest.raises(ValueError, match="list of files to read is empty"):
        list(Source([]).records())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "quintet\[train\]"'):
        list(Source("some/data").records())


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.tsv", "a\tb", "1\t2")
    before = Source(path).fingerprint()
    elsewhere = write_lines(tmp_path / "b.tsv", "a\tb", "1\t2")
    assert Source(elsewhere).fingerprint() == before
    assert Source(elsewhere, columns=("a", "b")).fingerprint() != before
    assert Source([path, elsewhere]).fingerprint() != before
    write_lines(path, "a\tb", "1\t3")
    assert Source(path).fingerprint() != before


def test_the_fingerprint_of_a_data_set(tmp_path: Path) -> None:
    for name, rows in (("a", ROWS), ("b", ROWS[:1])):
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name)
    prints = [Source(tmp_path / name).fingerprint() for name in ("a", "a", "b")]
    assert prints[0] == prints[1] != prints[2]
