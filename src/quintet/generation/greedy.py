"""Greedy search: the most probable token at every step."""

from __future__ import annotations

import torch

from quintet.generation.protocol import DecodingSession


def greedy_search(
    session: DecodingSession, prefix: torch.Tensor, max_length: int, eos_token_ids: list[int], pad_token_id: int
) -> torch.Tensor:
    """Continue the target prefixes (batch, n) until each row has ended or has `max_length` tokens.

    Returns (batch, length) with the prefix in front; rows that ended are padded. A row that has ended leaves the
    session, so that a step costs what the rows still alive cost.
    """
    batch, start = prefix.shape
    target = torch.full((batch, max_length), pad_token_id, dtype=prefix.dtype, device=prefix.device)
    target[:, :start] = prefix
    ends = torch.tensor(eos_token_ids, dtype=prefix.dtype, device=prefix.device)
    live = torch.arange(batch, device=prefix.device)
    tokens, length = prefix, start
    while length < max_length and live.numel() > 0:
        chosen = session.step(tokens).argmax(dim=-1)
        target[live, length] = chosen
        length += 1
        going_on = torch.isin(chosen, ends, invert=True).nonzero().squeeze(1)
        if going_on.numel() < live.numel():
            live, chosen = live[going_on], chosen[going_on]
            session.select(going_on)
        tokens = chosen[:, None]
    return target[:, :length]
