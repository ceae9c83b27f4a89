"""Limits of length: what is too long is counted and reported."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from quintet.training.data.examples import TaskExamples
from quintet.training.data.token_cache import TokenCache
from tests.training.data.toys import plain

SOURCES = [[5, 6, 1], [5, 6, 7, 8, 1], [9, 9, 9, 9, 1]]
TARGETS = [[3, 1], [4, 1], [3, 4, 5, 1]]


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    return TokenCache.write(tmp_path / "x", "print", ["input_ids", "labels"], 10, [[SOURCES, TARGETS]])


def contents(examples: TaskExamples) -> list[tuple[list[int], list[int]]]:
    found = [plain(examples.example(place, ())) for place in range(len(examples))]
    return [(one["input_ids"], one["labels"]) for one in found]


def test_what_fits_is_as_it_was(cache: TokenCache, caplog: pytest.LogCaptureFixture) -> None:
    examples = TaskExamples("toy", cache, 5, 4)
    assert contents(examples) == list(zip(SOURCES, TARGETS, strict=True))
    assert examples.longest == (5, 4)
    assert (examples.cut_sources, examples.dropped_targets) == (0, 0)
    assert not caplog.records


def test_sources_are_cut_and_targets_left_out(cache: TokenCache, caplog: pytest.LogCaptureFixture) -> None:
    examples = TaskExamples("toy", cache, 3, 3)
    assert contents(examples) == [([5, 6, 1], [3, 1]), ([5, 6, 1], [4, 1])]
    assert examples.longest == (3, 2)
    assert (examples.cut_sources, examples.dropped_targets) == (1, 1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.messages == [
        "toy: 1 of 3 targets are longer than 3 tokens; these examples are left out",
        "toy: 1 of 2 sources are longer than 3 tokens and are cut",
    ]


def test_nothing_is_left(cache: TokenCache) -> None:
    with pytest.raises(ValueError, match="toy: all 3 targets are longer than 1 tokens"):
        TaskExamples("toy", cache, 5, 1)


def test_limits_that_make_no_sense(cache: TokenCache) -> None:
    with pytest.raises(ValueError, match="limits of length must be at least 1"):
        TaskExamples("toy", cache, 0, 1)


def test_limits_are_part_of_the_fingerprint(cache: TokenCache) -> None:
    assert len({TaskExamples("toy", cache, *limits).fingerprint for limits in ((5, 4), (5, 5), (4, 4))}) == 3
