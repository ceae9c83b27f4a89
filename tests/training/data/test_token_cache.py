"""Tokens in files: what was written is read, keyed by all that decides on it, whole or not at all."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quintet
from quintet.training.data import tokenizing
from quintet.training.data.records import Source
from quintet.training.data.tasks import Task
from quintet.training.data.token_cache import TokenCache
from quintet.training.data.tokenizing import tokenize_corpus, tokenize_task, tokenizer_fingerprint
from tests.training.data.toys import write_lines

rows = st.lists(st.lists(st.integers(0, 65535), max_size=5), min_size=1, max_size=5)


@given(batches=st.lists(rows, min_size=1, max_size=4), large=st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[list[int]]], large: bool
) -> None:
    expected = [row for batch in batches for row in batch]
    if not any(expected):
        return  # a column without any token is refused before
    folder = tmp_path_factory.mktemp("cache") / "new" / "x"
    vocab_size = 65537 if large else 65536
    TokenCache.write(folder, "print", ["text"], vocab_size, ([batch] for batch in batches))
    cache = TokenCache.open(folder)
    column = cache.columns["text"]
    assert cache.fingerprint == "print"
    assert [column[index].tolist() for index in range(len(column))] == expected
    assert column.lengths.tolist() == [len(row) for row in expected]
    assert (folder / "text.ids").stat().st_size == sum(map(len, expected)) * (4 if large else 2)
    assert [path.name for path in folder.parent.iterdir()] == ["x"]


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token ids go from 1 to 65536"):
        TokenCache.write(tmp_path / "x", "", ["text"], 65536, [[[[1, 65536]]]])


def failing(error: BaseException) -> Iterator[list[list[list[int]]]]:
    yield [[[1, 2]]]
    raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_cache_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        TokenCache.write(tmp_path / "caches" / "x", "", ["text"], 10, failing(error))
    assert list((tmp_path / "caches").iterdir()) == []


@pytest.mark.parametrize("limit", [0, 100_000])
def test_no_room_on_the_disk(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands in for it; the second lets the ids pass, but not the offsets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=f"cannot write the token cache in {re.escape(str(tmp_path))}"):
            TokenCache.write(tmp_path / "x", "", ["text"], 10, [[[[1]] * 40_000]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new = time.time() - 25 * 3600, time.time() - 23 * 3600
    for name, folder_time, file_time in (("dead", old, old), ("alive", old, new), ("started", new, old)):
        folder = tmp_path / f".unfinished-{name}"
        folder.mkdir()
        (folder / "text.ids").touch()
        os.utime(folder / "text.ids", (file_time, file_time))
        os.utime(folder, (folder_time, folder_time))
    TokenCache.write(tmp_path / "x", "", ["text"], 10, [[[[1]]]])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-alive", ".unfinished-started", "x"]


def test_the_faster_process_wins(tmp_path: Path) -> None:
    """Two processes may tokenise the same data at once."""

    def overtaken() -> Iterator[list[list[list[int]]]]:
        yield [[[1, 2]]]
        TokenCache.write(tmp_path / "x", "theirs", ["text"], 10, [[[[1, 2]]]])

    assert TokenCache.write(tmp_path / "x", "ours", ["text"], 10, overtaken()).fingerprint == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["text.ids", "text.offsets.npy", "cache.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_cache(tmp_path: Path, name: str, damage: str) -> None:
    TokenCache.write(tmp_path / "x", "", ["text"], 10, [[[[1, 2], [3]]]])
    path = tmp_path / "x" / name
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 2)
    else:
        path.unlink()
    with pytest.raises(ValueError, match=r"the token cache .* is damaged; delete it"):
        TokenCache.open(tmp_path / "x")


# -- tokenising


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = write_lines(tmp_path / "pairs.jsonl", {"source": "ab", "target": "c"}, {"source": "ü", "target": ""})
    return Task("toy", Source(path), prefix="p: ")


def test_a_task_is_tokenised_as_the_tokenizer_does(tmp_path: Path, task: Task, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokenizing, "_BATCH", 1)
    tokenizer = quintet.ByT5Tokenizer()
    cache = tokenize_task(task, tokenizer, tmp_path / "caches")
    sources, targets = cache.columns["input_ids"], cache.columns["labels"]
    assert [sources[0].tolist(), sources[1].tolist()] == tokenizer(["p: ab", "p: ü"])["input_ids"]
    assert [targets[0].tolist(), targets[1].tolist()] == tokenizer(["c", ""])["input_ids"]


def test_a_corpus_has_no_end_tokens(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", "ab", "", "c")
    cache = tokenize_corpus(Source(path), quintet.ByT5Tokenizer(), tmp_path / "caches")
    assert cache.columns["text"].ids.tolist() == [byte + 3 for byte in b"abc"]


def test_what_is_there_is_not_done_again(tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenize_task(task, quintet.ByT5Tokenizer(), tmp_path / "caches")

    def write(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(TokenCache, "write", write)
    assert tokenize_task(task, quintet.ByT5Tokenizer(), tmp_path / "caches").fingerprint == first.fingerprint


def test_the_key_holds_all_that_decides(tmp_path: Path, task: Task) -> None:
    tokenizer, folder = quintet.ByT5Tokenizer(), tmp_path / "caches"
    source, target = {"source": "ab", "target": "c"}, {"source": "ab", "target": "d"}
    other = write_lines(tmp_path / "other.jsonl", source, target)
    caches = [
        tokenize_task(task, tokenizer, folder),
        tokenize_task(Task("toy", Source(other), prefix="p: "), tokenizer, folder),
        tokenize_task(Task("toy", task.data), tokenizer, folder),
        tokenize_task(Task("toy", task.data, source="p: {source}"), tokenizer, folder),
        tokenize_task(Task("toy", task.data, prefix="p: ", target="{target}!"), tokenizer, folder),
        tokenize_task(task, quintet.ByT5Tokenizer(extra_ids=10), folder),
        tokenize_corpus(task.data, tokenizer, folder, "{source}"),
    ]
    prints = {cache.fingerprint for cache in caches}
    assert len(prints) == len(caches)
    assert {path.name for path in folder.iterdir()} == prints
    renamed = Task("another name", task.data, prefix="p: ", metrics=("accuracy",))
    assert tokenize_task(renamed, tokenizer, folder).fingerprint == caches[0].fingerprint


def test_a_tokenizer_is_what_it_saves(tmp_path: Path) -> None:
    tokenizer = quintet.ByT5Tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    tokenizer(["use changes nothing"], padding=True)
    assert tokenizer_fingerprint(tokenizer) == before
    assert tokenizer_fingerprint(quintet.ByT5Tokenizer.from_pretrained(tmp_path)) == before
    tokenizer.add_tokens(["[NLU]"])
    assert tokenizer_fingerprint(tokenizer) != before


def test_the_classes_of_a_vocabulary_differ(shared: Path) -> None:
    """They read unknown characters and special tokens differently."""
    fast, slow = (
        one.from_pretrained(shared / "tokenizers" / "t5") for one in (quintet.T5TokenizerFast, quintet.T5Tokenizer)
    )
    before = tokenizer_fingerprint(fast)
    assert before != tokenizer_fingerprint(slow)
    fast(["a", "use changes nothing"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(fast) == before


@pytest.mark.parametrize("lines", [[], [""]])
def test_an_empty_data_set(tmp_path: Path, lines: list[str]) -> None:
    path = write_lines(tmp_path / "a.txt", *lines)
    with pytest.raises(ValueError, match=r"the data set .*a\.txt is empty"):
        tokenize_corpus(Source(path), quintet.ByT5Tokenizer(), tmp_path / "caches")
    path = write_lines(tmp_path / "a.jsonl", *lines)
    with pytest.raises(ValueError, match=r"the data set .*a\.jsonl is empty"):
        tokenize_task(Task("toy", Source(path)), quintet.ByT5Tokenizer(), tmp_path / "caches")
    assert list((tmp_path / "caches").iterdir()) == []


def test_a_record_without_the_field(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"source": "a", "target": "b"}, {"source": "a"})
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 has no field 'target'; its fields are source"):
        tokenize_task(Task("toy", Source(path)), quintet.ByT5Tokenizer(), tmp_path / "caches")
    assert list((tmp_path / "caches").iterdir()) == []


def test_ids_of_real_vocabularies(tmp_path: Path, shared: Path) -> None:
    """mT5's ids need four bytes."""
    tokenizer = quintet.MT5Tokenizer.from_pretrained(shared / "tokenizers" / "mt5")
    path = write_lines(tmp_path / "a.txt", "Die Häuser sind schön.")
    ids = tokenize_corpus(Source(path), tokenizer, tmp_path / "caches").columns["text"].ids
    assert ids.dtype == np.uint32
    assert tokenizer.decode(ids) == "Die Häuser sind schön."
