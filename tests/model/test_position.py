"""Relative position buckets: every distance against the reference, and the properties the paper states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.t5.modeling_t5 import T5Attention

from quintet.model.position import relative_position_bucket

# (buckets, largest distance): the published pair; small, odd and wide ones; distances that are no power of two.
SIZES = [(32, 128), (8, 20), (4, 3), (16, 17), (32, 64), (64, 128), (32, 1000), (10, 300), (128, 600), (6, 100)]
DISTANCES = torch.arange(-600, 601)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), SIZES)
def test_every_distance_falls_in_the_reference_s_bucket(
    bidirectional: bool, num_buckets: int, max_distance: int
) -> None:
    sizes = {"bidirectional": bidirectional, "num_buckets": num_buckets, "max_distance": max_distance}
    ours = relative_position_bucket(DISTANCES, **sizes)
    theirs = T5Attention._relative_position_bucket(DISTANCES, **sizes)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_shape_and_type_are_kept(bidirectional: bool) -> None:
    positions = torch.arange(12).view(1, 3, 4)
    buckets = relative_position_bucket(positions, bidirectional=bidirectional, num_buckets=32, max_distance=128)
    assert buckets.shape == positions.shape
    assert buckets.dtype == torch.long
    assert torch.equal(positions, torch.arange(12).view(1, 3, 4)), "the argument must stay as it was"


def test_the_published_buckets_by_hand() -> None:
    """Bidirectional: 0-7 exact, then logarithmic to 128, positive distances 16 higher. Causal: the future is 0."""
    near = torch.tensor([0, -1, -7, 1, 7, -8, -127, -128, -600, 600])
    both = relative_position_bucket(near, bidirectional=True, num_buckets=32, max_distance=128)
    assert both.tolist() == [0, 1, 7, 17, 23, 8, 15, 15, 15, 31]
    causal = relative_position_bucket(near, bidirectional=False, num_buckets=32, max_distance=128)
    assert causal.tolist() == [0, 1, 7, 0, 0, 8, 31, 31, 31, 0]


@given(st.integers(2, 64), st.integers(1, 500), st.booleans())
def test_buckets_are_in_range_and_grow_with_distance(half_buckets: int, beyond: int, bidirectional: bool) -> None:
    num_buckets = 2 * half_buckets
    max_distance = half_buckets + beyond
    buckets = relative_position_bucket(
        torch.arange(-700, 701), bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance
    )
    assert buckets.min() >= 0
    assert buckets.max() < num_buckets
    past = buckets[:701].flip(0)
    assert (past.diff() >= 0).all()
    assert past[-1] == (half_buckets if bidirectional else num_buckets) - 1
    if bidirectional:
        assert torch.equal(buckets[701:], past[1:] + half_buckets)
    else:
        assert (buckets[701:] == 0).all()
