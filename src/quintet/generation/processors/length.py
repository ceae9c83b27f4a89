"""Processors that act at certain lengths of the target: not to end too early, to start or end in a given way.

Lengths count the whole target, with the start token, unless they are said to be of new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quintet.generation.processors.base import RowFree, TokenIds, check_integer, check_number

Ids = int | Sequence[int] | torch.Tensor


class MinLengthLogitsProcessor(RowFree):
    """No end before the target has `min_length` tokens. eos_token_id: the token or tokens that end a target.

    ValueError for a negative length or an impossible id.
    """

    def __init__(self, min_length: int, eos_token_id: Ids, device: torch.device | str = "cpu") -> None:
        self.min_length = check_integer(min_length, "min_length")
        self.ends = TokenIds(eos_token_id, "eos_token_id", device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return self.ends.ban(scores) if input_ids.shape[-1] < self.min_length else scores


class MinNewTokensLengthLogitsProcessor(RowFree):
    """No end before `min_new_tokens` tokens follow the first `prompt_length_to_skip` of the target.

    ValueError for negative lengths or an impossible id.
    """

    def __init__(
        self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: Ids, device: torch.device | str = "cpu"
    ) -> None:
        self.prompt_length_to_skip = check_integer(prompt_length_to_skip, "prompt_length_to_skip")
        self.min_new_tokens = check_integer(min_new_tokens, "min_new_tokens")
        self.ends = TokenIds(eos_token_id, "eos_token_id", device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        new_tokens = input_ids.shape[-1] - self.prompt_length_to_skip
        return self.ends.ban(scores) if new_tokens < self.min_new_tokens else scores


class ForcedBOSTokenLogitsProcessor(RowFree):
    """The first token after the start token is `bos_token_id`. ValueError for an impossible id."""

    def __init__(self, bos_token_id: int) -> None:
        self.forced = TokenIds(check_integer(bos_token_id, "bos_token_id"), "bos_token_id")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return self.forced.force(scores) if input_ids.shape[-1] == 1 else scores


class ForcedEOSTokenLogitsProcessor(RowFree):
    """The last of `max_length` tokens is one of `eos_token_id`. ValueError for an impossible length or id."""

    def __init__(self, max_length: int, eos_token_id: Ids, device: torch.device | str = "cpu") -> None:
        self.max_length = check_integer(max_length, "max_length", least=1)
        self.forced = TokenIds(eos_token_id, "eos_token_id", device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return self.forced.force(scores) if input_ids.shape[-1] == self.max_length - 1 else scores


class ExponentialDecayLengthPenalty(RowFree):
    """Makes the end more likely the longer the target is.

    exponential_decay_length_penalty is (start, factor): n tokens after the first `start` new ones, the score s of an
    end grows by |s| * (factor**n - 1). An end that cannot come (-inf, or the lowest number, which
    InfNanRemoveLogitsProcessor makes of it) stays so. input_ids_seq_length: length of the target's prefix.
    ValueError for a negative start or length, a factor that is not positive, or an impossible id.
    """

    def __init__(
        self, exponential_decay_length_penalty: tuple[int, float], eos_token_id: Ids, input_ids_seq_length: int
    ) -> None:
        name = "exponential_decay_length_penalty"
        if not isinstance(exponential_decay_length_penalty, list | tuple) or len(exponential_decay_length_penalty) != 2:
            raise ValueError(f"{name} must be (start, factor), got {exponential_decay_length_penalty!r}")
        start, factor = exponential_decay_length_penalty
        prefix = check_integer(input_ids_seq_length, "input_ids_seq_length")
        self.regulation_start = check_integer(start, f"the start of {name}") + prefix
        self.regulation_factor = check_number(factor, f"the factor of {name}", "(0, inf)")
        self.ends = TokenIds(eos_token_id, "eos_token_id")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        steps = input_ids.shape[-1] - self.regulation_start
        if steps <= 0:
            return scores
        ends = self.ends.within(scores)
        score = scores[:, ends]
        raised = score + score.abs() * (self.regulation_factor**steps - 1)
        never = score <= torch.finfo(score.dtype).min
        return scores.index_copy(1, ends, torch.where(never, score, raised))
