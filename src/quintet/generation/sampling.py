"""Greedy search, the most probable token at every step, and sampling, one drawn in proportion to its probability."""

from __future__ import annotations

import torch

from quintet.generation.protocol import DecodingSession
from quintet.generation.search import Found, Search, Targets


def sample(session: DecodingSession, prefix: torch.Tensor, search: Search) -> Found:
    """Continue the targets (rows, n) until each has ended or is full."""
    targets = Targets(prefix, search)
    tokens = prefix
    while targets.growing.any():
        logits = session.step(tokens).float()
        scores = search.process(targets.ids, logits)
        search.trace.add(scores, logits)
        search.check(scores, targets.live, targets.growing, targets.length)
        rows = targets.live.numel()
        left = targets.append(_choose(scores, search, targets))
        if left.numel() < rows:
            session.select(left)
        tokens = targets.last
    return targets.found()


def _choose(scores: torch.Tensor, search: Search, targets: Targets) -> torch.Tensor:
    if not search.config.do_sample:
        return _most_probable(scores)
    return search.draw(scores, 1, targets.live, targets.rows).squeeze(1)


def _most_probable(scores: torch.Tensor) -> torch.Tensor:
    """The place of each row's largest number, the first of equal ones. On a CPU NumPy takes a sixth of torch's time."""
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        return torch.from_numpy(scores.numpy().argmax(axis=-1))
    return scores.argmax(dim=-1)
