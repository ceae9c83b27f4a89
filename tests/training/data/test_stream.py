"""The stream: every example once an epoch, sets at their rates, the same order from the same seed and state."""

from __future__ import annotations

import numpy as np
import pytest

from quintet.training.data.stream import Stream, Ticket
from tests.training.data.toys import plain, through_json, toy_set


def drawn(stream: Stream, count: int) -> list[Ticket]:
    return [stream.draw() for _ in range(count)]


def test_an_epoch_has_every_example_once_and_each_epoch_its_order() -> None:
    stream = Stream([toy_set(50)])
    epochs = [drawn(stream, 50) for _ in range(3)]
    orders = [[ticket.place for ticket in epoch] for epoch in epochs]
    assert [{ticket.epoch for ticket in epoch} for epoch in epochs] == [{0}, {1}, {2}]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in [*orders, range(50)]}) == 4
    assert stream.epochs == [3.0]


def test_the_seed_decides_on_the_order() -> None:
    orders = [drawn(Stream([toy_set(50), toy_set(9)], seed=seed), 200) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("rates", [None, [1.0, 2.0, 5.0]])
def test_sets_are_drawn_at_their_rates(rates: list[float] | None) -> None:
    sets = [toy_set(size, seed) for seed, size in enumerate((10, 40, 50))]
    draws = 20_000
    tickets = drawn(Stream(sets, rates), draws)
    shares = np.bincount([ticket.set for ticket in tickets]) / draws
    expected = np.array([0.1, 0.4, 0.5] if rates is None else [1 / 8, 2 / 8, 5 / 8])
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected / draws)).all()
    assert len(set(tickets)) == draws
    assert min(ticket.epoch for ticket in tickets[-500:]) > 100


def test_the_content_follows_from_the_ticket() -> None:
    stream = Stream([toy_set(9), toy_set(9)], seed=3)
    first = stream.example(Ticket(0, 2, 4))
    others = [Ticket(1, 2, 4), Ticket(0, 3, 4), Ticket(0, 2, 5)]
    assert plain(first) == plain(stream.example(Ticket(0, 2, 4)))
    assert all(plain(stream.example(other))["labels"] != plain(first)["labels"] for other in others)


@pytest.mark.parametrize("before", [0, 1, 9, 10, 33, 1500])
def test_a_resumed_stream_goes_on(before: int) -> None:
    sets = [toy_set(10), toy_set(7, seed=1)]
    stream = Stream(sets, [1, 3])
    drawn(stream, before)
    state = through_json(stream.state_dict())
    expected = drawn(stream, 100)
    resumed = Stream(sets, [1, 3])
    resumed.load_state_dict(state)
    assert drawn(resumed, 100) == expected


def test_other_data_on_resume() -> None:
    state = Stream([toy_set(10), toy_set(7)], [1, 3]).state_dict()
    others = [
        Stream([toy_set(10), toy_set(7, fingerprint="changed")], [1, 3]),
        Stream([toy_set(10), toy_set(8)], [1, 3]),
        Stream([toy_set(7), toy_set(10)], [1, 3]),
        Stream([toy_set(10)]),
        Stream([toy_set(10), toy_set(7)], [1, 4]),
        Stream([toy_set(10), toy_set(7)], [1, 3], seed=1),
    ]
    for stream in others:
        with pytest.raises(ValueError, match="the data of training is not that of the checkpoint"):
            stream.load_state_dict(state)


@pytest.mark.parametrize("rates", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [[1.0, 1.0]]])
def test_rates_that_make_no_sense(rates: list[float]) -> None:
    with pytest.raises(ValueError, match="a stream of 2 sets needs as many positive rates"):
        Stream([toy_set(3), toy_set(3)], rates)


def test_a_stream_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one set"):
        Stream([])
