"""The probability of given targets, on whatever implements the protocol."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quintet.generation.protocol import RewindableSession


def log_probabilities(
    session: RewindableSession, ids: torch.Tensor, labels: torch.Tensor, ignored: int
) -> torch.Tensor:
    """The log-probability (rows, length) of each label after the decoder has read `ids` up to there.

    ids (rows, length) are the labels shifted right; where labels are `ignored`, the result is 0. In float32.
    """
    logits = session.step_all(ids).float()
    chosen = logits.gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
    return (chosen - logits.logsumexp(dim=2)).masked_fill(labels == ignored, 0.0)


def transition_scores(
    sequences: torch.Tensor,
    scores: Sequence[torch.Tensor],
    beam_indices: torch.Tensor | None,
    normalize_logits: bool,
) -> torch.Tensor:
    """See `T5ForConditionalGeneration.compute_transition_scores`."""
    steps = torch.stack(tuple(scores))  # (steps, rows, vocabulary)
    if normalize_logits:
        steps = torch.log_softmax(steps, dim=-1)
    if beam_indices is None:
        beam_indices = torch.arange(steps.shape[1], device=sequences.device)[:, None].expand(-1, steps.shape[0])
    missing = beam_indices < 0
    new = int((~missing).sum(dim=1).max())
    rows, missing = beam_indices[:, :new].clamp(min=0).long(), missing[:, :new]
    tokens = sequences[:, sequences.shape[1] - new :]
    picked = steps[torch.arange(new, device=sequences.device), rows, tokens]
    return picked.masked_fill(missing, 0.0)
