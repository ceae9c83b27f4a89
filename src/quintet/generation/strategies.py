"""Which loop a configuration asks for."""

from __future__ import annotations

from typing import Any

import torch

from quintet.generation.beams import beam_search
from quintet.generation.config import GenerationConfig
from quintet.generation.contrastive import contrastive_search
from quintet.generation.grouped_beams import grouped_beam_search
from quintet.generation.phrases import Constraint, DisjunctiveConstraint, build_constraints
from quintet.generation.sampling import sample
from quintet.generation.search import Found, Search


def decode(session: Any, prefix: torch.Tensor, search: Search) -> Found:
    """Run the loop that the search's configuration asks for.

    prefix is (rows, n), or under beams (sources, n); the session has num_beams rows per source then.
    """
    config = search.config
    if is_forced(config):
        return grouped_beam_search(session, prefix, search, _phrases(search, prefix.shape[1]))
    if config.num_beam_groups > 1:
        return grouped_beam_search(session, prefix, search)
    if config.num_beams > 1:
        return beam_search(session, prefix, search)
    if is_contrastive(config):
        return contrastive_search(session, prefix, search)
    return sample(session, prefix, search)


def rows_per_source(config: GenerationConfig) -> int:
    """How many rows of a session belong to each source."""
    return max(config.num_beams, config.num_return_sequences)


def is_forced(config: GenerationConfig) -> bool:
    """Whether phrases must occur. Raises ValueError without beams, where there is no choice among targets."""
    forced = config.force_words_ids is not None or bool(config.constraints)
    if forced and config.num_beams == 1:
        raise ValueError("force_words_ids and constraints need num_beams > 1")
    return forced


def is_contrastive(config: GenerationConfig) -> bool:
    """Whether contrastive search is asked for: by penalty_alpha and more than one of the top_k to choose from."""
    return bool(config.penalty_alpha) and not config.do_sample and (config.top_k or 0) > 1


def _phrases(search: Search, prefix: int) -> list[Constraint]:
    phrases = build_constraints(search.config.force_words_ids, search.config.constraints)
    known = [one for one in phrases if isinstance(one, DisjunctiveConstraint)]
    needed = sum(min(len(phrase) for phrase in one.token_ids) for one in known)
    if needed > search.max_length - prefix:
        room = search.max_length - prefix
        raise ValueError(f"the forced words have {needed} tokens, but max_length={search.max_length} leaves {room}")
    return phrases
