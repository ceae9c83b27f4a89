"""Batches: nothing lost, nothing twice, within the limits; the same from the same seed; resumable at any batch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quintet.training.data.batching import Ahead, BucketedBatches, PackedBatches
from quintet.training.data.buckets import Limits, every_example
from quintet.training.data.examples import lengths_of
from quintet.training.data.stream import Stream
from tests.training.data.toys import plain, through_json, toy_set

Make = Callable[..., Any]


def by_tokens(seed: int = 0, **options: Any) -> BucketedBatches:
    sets = [toy_set(90), toy_set(40, seed=1)]
    return BucketedBatches(
        Stream(sets, seed=seed), Limits(200, options.pop("max_examples", None)), **{"window": 64, **options}
    )


def by_count(seed: int = 0, **options: Any) -> BucketedBatches:
    return BucketedBatches(Stream([toy_set(90)], seed=seed), Limits(max_examples=7), **{"window": 5, **options})


def packed(seed: int = 0, **options: Any) -> PackedBatches:
    options = {"rows": 4, "source_length": 60, "target_length": 50, "window": 37, **options}
    return PackedBatches(Stream([toy_set(90), toy_set(40, seed=1)], seed=seed), **options)


every_kind = pytest.mark.parametrize("make", [by_tokens, by_count, packed])


def take(batches: Any, count: int) -> list[Any]:
    return [plain(next(batches)) for _ in range(count)]


def examples_of(batches: list[Any]) -> list[Any]:
    rows = [row for batch in batches for row in batch]
    return [example for row in rows for example in (row if isinstance(row, list) else [row])]


@every_kind
def test_batches_hold_what_the_stream_draws(make: Make) -> None:
    """Each example of the stream comes once; only those of the open window may still be missing."""
    batches = make()
    stream = make()._stream
    found = Counter(map(repr, examples_of(take(batches, 60))))
    drawn = [repr(plain(stream.example(stream.draw()))) for _ in range(sum(found.values()) + 200)]
    assert not found - Counter(drawn)
    settled = drawn[: sum(found.values()) - 200]
    assert not Counter(settled) - found


@every_kind
def test_the_seed_decides_on_the_batches(make: Make) -> None:
    assert take(make(), 30) == take(make(), 30) != take(make(seed=1), 30)


@every_kind
def test_a_resumed_run_equals_an_uninterrupted_one(make: Make) -> None:
    """From every one of 60 batches on, over several windows and epochs."""
    batches = make()
    states = []
    expected = []
    for _ in range(60):
        states.append(through_json(batches.state_dict()))
        expected.append(plain(next(batches)))
    for place, state in enumerate(states):
        resumed = make()
        resumed.load_state_dict(state)
        assert through_json(resumed.state_dict()) == state
        assert take(resumed, min(12, 60 - place)) == expected[place : place + 12]


@every_kind
@pytest.mark.parametrize("before", [0, 3])
def test_a_state_can_be_loaded_midway(make: Make, before: int) -> None:
    batches = make()
    take(batches, before)
    state = batches.state_dict()
    expected = take(batches, 20)
    batches.load_state_dict(state)
    assert take(batches, 20) == expected


@every_kind
@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_batch_that_was_only_drawn_is_drawn_again(make: Make, before: int) -> None:
    ahead, again = Ahead(make()), Ahead(make())
    assert take(ahead, before) == take(make(), before)
    ahead.draw()
    state = through_json(ahead.state_dict())
    again.draw()
    again.load_state_dict(state)
    assert take(again, 6) == take(ahead, 6)


@every_kind
def test_changes_on_resume_are_refused(make: Make) -> None:
    state = make().state_dict()
    with pytest.raises(ValueError, match="the data of training is not that of the checkpoint"):
        make(seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="the batches of the checkpoint were made with other options"):
        make(window=63).load_state_dict(state)
    if "widths" in state["options"]:  # another version's
        changed = {**state, "options": {**state["options"], "widths": [2]}}
        with pytest.raises(ValueError, match="the batches of the checkpoint were made with other options"):
            make().load_state_dict(changed)


def cost(batch: list[Any]) -> int:
    return len(batch) * (max(len(one["input_ids"]) for one in batch) + max(len(one["labels"]) for one in batch))


def test_tokens_are_bounded_and_little_is_padding() -> None:
    stream = Stream([toy_set(3000, longest=60)])
    batches = take(BucketedBatches(stream, Limits(1000), window=3000), 150)
    assert all(cost(batch) <= 1000 for batch in batches)
    real = sum(len(one["input_ids"]) + len(one["labels"]) for one in examples_of(batches))
    assert real / sum(map(cost, batches)) > 0.85  # in random order it would be about a half
    sizes = [len(batch) for batch in batches]
    assert abs(np.corrcoef(sizes, range(len(sizes)))[0, 1]) < 0.3, "batches come in order of length"


def test_little_of_large_batches_is_padding() -> None:
    """A window holds many of them, however large they are."""
    batches = BucketedBatches(Stream([toy_set(9000)]), Limits(max_examples=1500))
    real = padded = 0
    for batch in itertools.islice(batches, 20):
        lengths = lengths_of(batch)
        real, padded = real + lengths.sum(), padded + len(batch) * lengths.max(axis=0).sum()
    assert real > 0.8 * padded


def real_tokens(lengths: np.ndarray, limits: Limits) -> float:
    """The share of a batch's tokens that are no padding."""
    batches = limits.cut(lengths)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    return float(lengths.sum() / sum(len(batch) * lengths[batch].max(axis=0).sum() for batch in batches))


@pytest.mark.parametrize(
    ("longest", "count", "least"),
    [((30, 20), 32768, 0.97), ((30, 20), 2048, 0.85), ((1000, 60), 8192, 0.945), ((400, 400), 32768, 0.94)],
)
def test_short_and_long_few_and_many(longest: tuple[int, int], count: int, least: float) -> None:
    """By source or target alone, or as if each length were the only one of its kind, some have a third of padding."""
    rng = np.random.default_rng(0)
    lengths = np.stack([rng.integers(1, limit + 1, count) for limit in longest], axis=1)
    assert real_tokens(lengths, Limits(max_examples=64)) > least


@pytest.mark.parametrize(
    ("examples", "batch", "window"), [(100, 8, 8192), (20_000, 8, 20_000), (50_000, 8, 32768), (100, 2048, 65536)]
)
def test_a_window_is_an_epoch_within_limits(examples: int, batch: int, window: int) -> None:
    batches = BucketedBatches(Stream([toy_set(examples)]), Limits(max_examples=batch))
    assert batches.state_dict()["options"]["window"] == window


def test_examples_are_bounded() -> None:
    assert all(len(batch) == 7 for batch in take(by_count(), 20))
    both = take(by_tokens(max_examples=3), 20)
    assert {len(batch) for batch in both} <= {1, 2, 3}


def test_for_evaluation_each_example_comes_once() -> None:
    examples = toy_set(90)
    batches = [plain(batch) for batch in every_example(examples, Limits(200))]
    assert batches == [plain(batch) for batch in every_example(examples, Limits(200))]
    assert all(cost(batch) <= 200 for batch in batches)
    expected = [repr(plain(examples.example(place, (place,)))) for place in range(90)]
    assert Counter(map(repr, examples_of(batches))) == Counter(expected)


def test_packed_rows_fit_and_are_full() -> None:
    stream = Stream([toy_set(500, longest=40)])
    batches = take(PackedBatches(stream, rows=4, source_length=128, target_length=128, window=500), 12)
    rows = [row for batch in batches for row in batch]
    lengths = np.array(
        [[sum(len(example[side]) for example in row) for side in ("input_ids", "labels")] for row in rows]
    )
    assert all(len(batch) == 4 for batch in batches)
    assert (lengths <= 128).all()
    assert lengths.mean() / 128 > 0.9


def test_the_emptiest_rows_wait_for_more_examples() -> None:
    lengths = np.array([(30, 30), (60, 50), (60, 50), (5, 5), (60, 50), (60, 50)])
    batches, left = packed()._group(lengths, np.random.default_rng(0))
    assert sorted(batches[0]) == [[1], [2], [4], [5]]
    assert sorted(left) == [0, 3]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (by_tokens, {"window": 0}, "window must be at least 1"),
        (packed, {"rows": 0}, "rows must be at least 1"),
        (packed, {"source_length": 19}, r"a row holds 19 \+ 50 tokens, but one example may take 20 \+ 20"),
        (packed, {"target_length": 19}, r"a row holds 60 \+ 19 tokens, but one example may take 20 \+ 20"),
    ],
)
def test_batches_that_cannot_be(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("limits", [(None, None), (0, None), (None, 0)])
def test_limits_that_make_no_sense(limits: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match=r"max_tokens or max_examples|must be at least 1"):
        Limits(*limits)


def test_an_example_over_the_limits() -> None:
    for make in (
        lambda: BucketedBatches(Stream([toy_set(90)]), Limits(39)),
        lambda: next(every_example(toy_set(90), Limits(39))),
    ):
        with pytest.raises(ValueError, match=r"max_tokens is 39, but one example may take 20 \+ 20 tokens"):
            make()
