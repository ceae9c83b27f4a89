"""What makes groups of beams differ from each other."""

from __future__ import annotations

import torch

from quintet.generation.processors.base import RowFree, check_integer, check_number


class HammingDiversityLogitsProcessor(RowFree):
    """Lowers the score of tokens that earlier groups of the same source chose at this step (Vijayakumar et al. 2018).

    Each choice costs `diversity_penalty`. ValueError unless that is positive, and num_beam_groups, at least 2, divides
    num_beams.
    """

    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        self.diversity_penalty = check_number(diversity_penalty, "diversity_penalty", "(0, inf)")
        self.num_beams = check_integer(num_beams, "num_beams", least=2)
        groups = check_integer(num_beam_groups, "num_beam_groups", least=2)
        if self.num_beams % groups:
            raise ValueError(
                f"num_beam_groups must divide num_beams, got {num_beams} beams in {num_beam_groups} groups"
            )
        self.group_size = self.num_beams // groups

    def __call__(  # type: ignore[override]  # the list passes the extra arguments by name
        self, input_ids: torch.Tensor, scores: torch.Tensor, current_tokens: torch.Tensor, beam_group_idx: int
    ) -> torch.Tensor:
        """Scores (sources * group size, vocabulary) of one group to new scores.

        current_tokens (sources * num_beams,) holds the tokens that the groups before `beam_group_idx` have chosen.
        """
        chosen = current_tokens.view(-1, self.num_beams)[:, : beam_group_idx * self.group_size]
        if chosen.shape[1] == 0:
            return scores
        times = (chosen[:, :, None] == chosen[:, None, :]).sum(dim=-1)
        tokens, times = (values.repeat_interleave(self.group_size, dim=0) for values in (chosen, times))
        lowered = scores.gather(1, tokens) - self.diversity_penalty * times
        return scores.scatter(1, tokens, lowered.to(scores.dtype))
