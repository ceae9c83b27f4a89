"""Contrastive search (Su et al. 2022): of the most probable tokens, one whose state is unlike those before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from quintet.generation.protocol import StatefulSession
from quintet.generation.search import Found, Search, Targets


def contrastive_search(session: StatefulSession, prefix: torch.Tensor, search: Search) -> Found:
    """Continue the targets (rows, n) until each has ended or is full.

    Each step tries the top_k tokens of every row and takes the one with the highest (1 - alpha) * probability - alpha *
    (largest cosine similarity of its state and one before), alpha being penalty_alpha.
    """
    alpha, width = search.config.penalty_alpha or 0.0, search.config.top_k or 1
    targets = Targets(prefix, search)
    logits, states = session.step_states(prefix)
    context = F.normalize(states.float(), dim=-1)
    while targets.growing.any():
        scores = search.process(targets.ids, logits.float())
        search.trace.add(scores, logits.float())
        search.check(scores, targets.live, targets.growing, targets.length)
        probabilities, tokens = torch.softmax(scores, dim=-1).topk(width)
        rows = torch.arange(tokens.shape[0], device=tokens.device)
        session.select(rows.repeat_interleave(width))
        logits, states = session.step_states(tokens.view(-1, 1))
        tried = F.normalize(states.float(), dim=-1).view(*tokens.shape, -1)
        likeness = torch.matmul(tried, context.transpose(1, 2)).amax(dim=-1)
        value = (1 - alpha) * probabilities - alpha * likeness
        best = value.masked_fill(probabilities == 0, -torch.inf).argmax(dim=-1)  # the impossible is no choice
        left = targets.append(tokens[rows, best])
        chosen = (rows * width + best)[left]
        session.select(chosen)
        logits = logits[chosen]
        context = torch.cat([context[left], tried[left, best[left]][:, None]], dim=1)
    return targets.found()
