"""Best fit on two sides at once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quintet.training.data.packing import pack

ROOM = (20, 10)


@given(lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 10)), min_size=1, max_size=60))
def test_every_example_is_in_one_row_that_holds_it(lengths: list[tuple[int, int]]) -> None:
    sizes = np.array(lengths)
    rows = pack(sizes, ROOM)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert all((sizes[row].sum(axis=0) <= ROOM).all() for row in rows)
    fill = [sizes[row].sum(axis=0) for row in rows]
    assert not any((one + other <= ROOM).all() for one, other in combinations(fill, 2)), "two rows would fit into one"


def test_both_sides_count() -> None:
    """Two long sources and two long targets: only crosswise do they share rows."""
    rows = pack(np.array([(15, 2), (5, 8), (15, 2), (5, 8)]), ROOM)
    assert sorted(map(sorted, rows)) in ([[0, 1], [2, 3]], [[0, 3], [1, 2]])


def test_the_fullest_row_that_fits_is_taken() -> None:
    rows = pack(np.array([(12, 6), (16, 8), (3, 1)]), ROOM)
    assert sorted(map(sorted, rows)) == [[0], [1, 2]]


def test_an_example_that_no_row_holds() -> None:
    with pytest.raises(ValueError, match=r"an example of 3 \+ 11 tokens does not fit into a row of 20 \+ 10"):
        pack(np.array([(1, 1), (3, 11)]), ROOM)
