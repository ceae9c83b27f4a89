"""Small models for tests of the engine, and what both engines make of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import quintet
from tests.model.reference import build, randomize

HEAD = "ForConditionalGeneration"


def make_model(variant: str = "t5", head: str = HEAD, **changes: Any) -> Any:
    """In evaluation mode; drawn so that position, padding and order matter."""
    model = build(quintet, head, variant, **changes)
    model.engine = "auto"
    randomize(model)
    return model.eval()


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """The model's own layers compute for a while."""
    model.engine = "eager"
    try:
        yield
    finally:
        model.engine = "auto"


def random_ids(rows: int, n: int, seed: int = 0, vocabulary: int = 99) -> torch.Tensor:
    return torch.randint(3, vocabulary, (rows, n), generator=torch.Generator().manual_seed(seed))


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, over the largest number."""
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
