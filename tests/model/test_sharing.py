"""Rows of the same source share its keys and values, and get what rows with copies of their own would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quintet.model.cache import DynamicCache, EncoderDecoderCache, StaticCache
from quintet.model.session import EagerSession
from quintet.model.sharing import SourceSharing

from .reference import VARIANTS, make_batch, shared_pair

HEAD = "ForConditionalGeneration"
SOURCES = 3


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 3))
def test_folding_is_undone_by_unfolding(sources: list[int], new: int) -> None:
    read = torch.tensor([*range(4), *sources])  # every source has a row
    query = torch.randn(len(read), 2, new, 5)
    sharing = SourceSharing(read, 4)
    folded = sharing.fold(query)
    assert folded.shape[:2] == (4, 2)
    assert torch.equal(sharing.unfold(folded), query)


@given(st.permutations([0, 0, 0, 1, 2, 2]))
def test_attention_over_a_shared_source_is_attention_over_copies(sources: list[int]) -> None:
    read = torch.tensor(sources)
    sharing = SourceSharing(read, 3)
    query, key = torch.randn(6, 2, 1, 4), torch.randn(3, 2, 7, 4)
    together = sharing.unfold(torch.softmax(sharing.fold(query) @ key.transpose(2, 3), dim=-1) @ key)
    alone = torch.softmax(query @ key[read].transpose(2, 3), dim=-1) @ key[read]
    torch.testing.assert_close(together, alone)


def session(model: Any, padding: str = "right", static: bool = False, cached: bool = True) -> EagerSession:
    batch = make_batch("EncoderModel", padding)
    mask = batch.get("attention_mask")
    memory = model.encoder(batch["input_ids"], mask).last_hidden_state
    caches = (
        [StaticCache(max_cache_len=size) for size in (9, memory.shape[1])]
        if static
        else [DynamicCache(), DynamicCache()]
    )
    return EagerSession(model, memory, mask, EncoderDecoderCache(*caches) if cached else None)


MOVES = [
    [0, 0, 0, 1, 1, 1, 2, 2, 2],  # beams
    [2, 0, 1, 3, 3, 4, 8, 7, 6],  # change places within their source
    [0, 1, 2, 6, 7, 8],  # a source is done
    [5, 3, 0, 1],  # sources change places, with unequal numbers of rows
    [3, 1, 0],
    [2],
]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_every_move_gives_what_an_uncached_pass_gives(variant: str, padding: str, kind: str) -> None:
    """Without a cache, each row has its own copy of the source, and the whole target is read at every step."""
    model = shared_pair(HEAD, variant, "sdpa").ours
    sessions = [session(model, padding, static=kind == "static"), session(model, padding, cached=False)]
    generator = torch.Generator().manual_seed(3)
    tokens = torch.zeros(SOURCES, 1, dtype=torch.long)
    for rows in MOVES:
        ours, expected = (one.step(tokens) for one in sessions)
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)
        for one in sessions:
            one.select(torch.tensor(rows))
        tokens = torch.randint(3, 90, (len(rows), 1), generator=generator)


@pytest.mark.parametrize("variant", ["v1.1", "umt5"])
@torch.no_grad()
def test_tokens_that_are_taken_back_leave_no_trace(variant: str) -> None:
    model = shared_pair(HEAD, variant, "sdpa").ours
    plain, rewound = session(model), session(model)
    start, wrong, right = (torch.randint(3, 90, (SOURCES, n)) for n in (2, 4, 3))
    plain.step(start)
    rewound.step_all(torch.cat([start, wrong], dim=1))
    rewound.crop(2)
    torch.testing.assert_close(rewound.step_all(right), plain.step_all(right), atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_a_source_is_held_once_however_many_beams_read_it() -> None:
    model = shared_pair(HEAD, "t5", "sdpa").ours
    one = session(model)
    one.select(torch.arange(SOURCES).repeat_interleave(8))
    one.step(torch.zeros(SOURCES * 8, 1, dtype=torch.long))
    cache = one._cache
    assert cache is not None
    keys: list[Tensor] = [layer.keys for layer in cache.cross_attention_cache.layers]
    assert all(key.shape[0] == SOURCES for key in keys)
    one.select(torch.arange(8, 16))  # the beams of one source
    assert all(layer.keys.shape[0] == 1 for layer in cache.cross_attention_cache.layers)
