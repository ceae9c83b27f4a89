"""Filters of the distribution that is sampled from, and the processors that put scores in order.

A filter gives `filter_value` to the tokens it takes out, and keeps the `min_tokens_to_keep` best whatever it says.
Thresholds are computed in the precision of the scores, in the order of the reference's operations: a token at the edge
of a filter must fall on the same side.
"""

from __future__ import annotations

import torch

from quintet.generation.processors.base import NEVER, RowFree, check_integer, check_number


class TemperatureLogitsWarper(RowFree):
    """Divides the scores: below 1 the distribution becomes sharper, above 1 flatter. ValueError unless positive."""

    def __init__(self, temperature: float) -> None:
        self.temperature = check_number(temperature, "temperature", "(0, inf)")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return scores / self.temperature


class Filter(RowFree):
    """A filter of the distribution; subclasses say what it takes out."""

    def __init__(self, filter_value: float, min_tokens_to_keep: int) -> None:
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_integer(min_tokens_to_keep, "min_tokens_to_keep", least=1)

    def removed(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) to a mask of that shape: which tokens go."""
        raise NotImplementedError

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return scores.masked_fill(self.removed(scores), self.filter_value)


class TopKLogitsWarper(Filter):
    """Keeps the `top_k` best tokens, and those as good as the last of them. ValueError unless top_k is positive."""

    def __init__(self, top_k: int, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.top_k = max(check_integer(top_k, "top_k", least=1), self.min_tokens_to_keep)

    def removed(self, scores: torch.Tensor) -> torch.Tensor:
        """See Filter."""
        return _below_best(scores, self.top_k)


class TopPLogitsWarper(Filter):
    """Keeps the fewest best tokens that have the probability `top_p` together (Holtzman et al. 2020).

    ValueError unless top_p is in (0, 1].
    """

    def __init__(self, top_p: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.top_p = check_number(top_p, "top_p", "(0, 1]")

    def removed(self, scores: torch.Tensor) -> torch.Tensor:
        """See Filter."""
        ascending, order = scores.sort(dim=-1)
        tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p
        tail[:, -self.min_tokens_to_keep :] = False
        return _unsorted(tail, order)


class MinPLogitsWarper(Filter):
    """Keeps tokens at least `min_p` times as probable as the best. ValueError unless min_p is in [0, 1]."""

    def __init__(self, min_p: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.min_p = check_number(min_p, "min_p", "[0, 1]")

    def removed(self, scores: torch.Tensor) -> torch.Tensor:
        """See Filter."""
        probabilities = scores.softmax(dim=-1)
        unlikely = probabilities < self.min_p * probabilities.amax(dim=-1, keepdim=True)
        if self.min_tokens_to_keep == 1:  # the best is there anyway, and sorting is what costs
            return unlikely
        best = scores.argsort(dim=-1, descending=True)[:, : self.min_tokens_to_keep]
        return unlikely.scatter_(1, best, False)


class TypicalLogitsWarper(Filter):
    """Keeps the tokens whose surprise is closest to the expected one, the probability `mass` of them.

    Locally typical sampling (Meister et al. 2023). ValueError unless 0 < mass < 1.
    """

    def __init__(self, mass: float = 0.9, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.mass = check_number(mass, "mass (typical_p)", "(0, 1)")

    def removed(self, scores: torch.Tensor) -> torch.Tensor:
        """See Filter."""
        log_probabilities = scores.log_softmax(dim=-1)
        entropy = -(log_probabilities * log_probabilities.exp()).nansum(dim=-1, keepdim=True)
        distance, order = (-log_probabilities - entropy).abs().sort(dim=-1)
        covered = scores.gather(1, order).softmax(dim=-1).cumsum(dim=-1)
        last = (covered < self.mass).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        untypical = distance > distance.gather(1, last)
        untypical[:, : self.min_tokens_to_keep] = False
        return _unsorted(untypical, order)


class EpsilonLogitsWarper(Filter):
    """Keeps tokens with a probability of at least `epsilon` (Hewitt et al. 2022). ValueError unless 0 < epsilon < 1."""

    def __init__(self, epsilon: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.epsilon = check_number(epsilon, "epsilon (epsilon_cutoff)", "(0, 1)")

    def removed(self, scores: torch.Tensor) -> torch.Tensor:
        """See Filter."""
        return (scores.softmax(dim=-1) < self.epsilon) & _below_best(scores, self.min_tokens_to_keep)


class EtaLogitsWarper(Filter):
    """Keeps tokens with a probability of at least min(epsilon, sqrt(epsilon) * exp(-entropy)) (Hewitt et al. 2022).

    ValueError unless 0 < epsilon < 1.
    """

    def __init__(
        self,
        epsilon: float,
        filter_value: float = NEVER,
        min_tokens_to_keep: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.epsilon = check_number(epsilon, "epsilon (eta_cutoff)", "(0, 1)")
        self._root = torch.tensor(self.epsilon).sqrt().item()  # in fp32, as the reference

    def removed(self, scores: torch.Tensor) -> torch.Tensor:
        """See Filter."""
        log_probabilities = scores - scores.logsumexp(dim=-1, keepdim=True)
        finite = log_probabilities.clamp(min=torch.finfo(scores.dtype).min)
        entropy = -(finite * log_probabilities.softmax(dim=-1)).sum(dim=-1, keepdim=True)
        eta = (self._root * (-entropy).exp()).clamp(max=self.epsilon)
        return (scores.softmax(dim=-1) < eta) & _below_best(scores, self.min_tokens_to_keep)


class InfNanRemoveLogitsProcessor(RowFree):
    """NaN becomes 0, infinities the largest and smallest finite numbers of the scores' type."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return torch.nan_to_num(scores)


class LogitNormalization(RowFree):
    """Log-probabilities: beam search compares sums of them, which shaped scores are not."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return scores.log_softmax(dim=-1)


def _below_best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Which scores (rows, vocabulary) are lower than the `count` best of their row."""
    return scores < scores.topk(min(count, scores.shape[-1])).values[:, -1:]


def _unsorted(mask: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """A mask over sorted tokens, (rows, vocabulary), as a mask over the vocabulary."""
    return torch.empty_like(mask).scatter_(1, order, mask)
