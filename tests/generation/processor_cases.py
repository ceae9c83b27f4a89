"""Random targets and scores for logits processors, and arguments that suit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from quintet.generation import processors

Draw = Callable[[st.SearchStrategy[Any]], Any]
INFINITY = float("inf")


@dataclass
class Case:
    """Targets (rows, length) and scores (rows, vocabulary), and a way to draw arguments that suit them."""

    draw: Draw
    ids: Tensor
    scores: Tensor

    @property
    def vocabulary(self) -> int:
        return self.scores.shape[1]

    def token(self) -> int:
        return self.draw(st.integers(0, self.vocabulary - 1))

    def tokens(self, least: int = 1) -> list[int]:
        return self.draw(st.lists(st.integers(0, self.vocabulary - 1), min_size=least, max_size=4))

    def near_length(self) -> int:
        return self.draw(st.integers(max(0, self.ids.shape[1] - 2), self.ids.shape[1] + 2))

    def ends(self) -> int | list[int] | Tensor:
        return self.draw(st.sampled_from([self.token(), self.tokens(), torch.tensor(self.tokens())]))

    def number(self, low: float, high: float) -> float:
        return self.draw(st.floats(low, high, exclude_min=True, exclude_max=True))

    def sequence(self) -> list[int]:
        """Tokens of which the last often completes what some target ends in."""
        row, length = self.draw(st.integers(0, len(self.ids) - 1)), self.draw(st.integers(0, 3))
        ending = self.ids[row, self.ids.shape[1] - length :].tolist() if length else []
        return [*self.draw(st.sampled_from([ending, ending[1:], self.tokens()])), self.token()]

    def sequences(self) -> list[list[int]]:
        return [self.sequence() for _ in range(self.draw(st.integers(1, 5)))]

    def source(self) -> Tensor:
        length = self.draw(st.integers(1, 9))
        return torch.randint(0, self.vocabulary, (len(self.ids), length), generator=generator(self.token()))

    def kept(self) -> dict[str, int | float]:
        """What every filter takes."""
        return {
            "filter_value": self.draw(st.sampled_from([-INFINITY, -INFINITY, -50.0])),
            "min_tokens_to_keep": self.draw(st.sampled_from([1, 1, 2, 3, 50])),
        }

    def allowed(self) -> Callable[[int, Tensor], list[int]]:
        some = self.tokens()
        return lambda source, target: [(token + source + int(target[-1])) % self.vocabulary for token in some]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_case(data: st.DataObject, dtype: torch.dtype = torch.float32) -> Case:
    """Small vocabularies, so that tokens come again; some scores equal, some -inf, never a whole row."""
    rows, length, vocabulary = (data.draw(st.integers(low, high)) for low, high in ((1, 4), (1, 9), (4, 40)))
    random = generator(data.draw(st.integers(0, 2**31)))
    scores = 4 * torch.randn(rows, vocabulary, generator=random)
    if data.draw(st.booleans()):
        scores = scores.round()
    holes = torch.rand(rows, vocabulary, generator=random) < data.draw(st.sampled_from([0.0, 0.3, 0.9]))
    holes[:, 0] = False
    ids = torch.randint(0, min(vocabulary, data.draw(st.integers(2, 40))), (rows, length), generator=random)
    return Case(data.draw, ids, scores.masked_fill(holes, -INFINITY).to(dtype))


def biases(case: Case) -> Any:
    bias = st.floats(-5, 5, width=32) | st.just(-INFINITY)
    pairs = [[sequence, case.draw(bias)] for sequence in case.sequences()]
    return {tuple(sequence): value for sequence, value in pairs}


ARGUMENTS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "MinLengthLogitsProcessor": lambda case: {"min_length": case.near_length(), "eos_token_id": case.ends()},
    "MinNewTokensLengthLogitsProcessor": lambda case: {
        "prompt_length_to_skip": case.draw(st.integers(0, 2)),
        "min_new_tokens": case.near_length(),
        "eos_token_id": case.ends(),
    },
    "TemperatureLogitsWarper": lambda case: {"temperature": case.number(0.01, 10)},
    "RepetitionPenaltyLogitsProcessor": lambda case: {
        "penalty": case.number(0.1, 5),
        "prompt_ignore_length": case.draw(st.none() | st.integers(0, 10)),
    },
    "EncoderRepetitionPenaltyLogitsProcessor": lambda case: {
        "penalty": case.number(0.1, 5),
        "encoder_input_ids": case.source(),
    },
    "TopPLogitsWarper": lambda case: {"top_p": case.draw(st.just(1.0) | st.floats(0.001, 1)), **case.kept()},
    "TopKLogitsWarper": lambda case: {"top_k": case.draw(st.integers(1, 50)), **case.kept()},
    "MinPLogitsWarper": lambda case: {"min_p": case.draw(st.floats(0, 1)), **case.kept()},
    "TypicalLogitsWarper": lambda case: {"mass": case.number(0, 1), **case.kept()},
    "EpsilonLogitsWarper": lambda case: {"epsilon": case.number(0, 0.5), **case.kept()},
    "EtaLogitsWarper": lambda case: {"epsilon": case.number(0, 0.9), **case.kept()},
    "NoRepeatNGramLogitsProcessor": lambda case: {"ngram_size": case.draw(st.integers(1, 5))},
    "EncoderNoRepeatNGramLogitsProcessor": lambda case: {
        "encoder_ngram_size": case.draw(st.integers(1, 5)),
        "encoder_input_ids": torch.cat([case.source(), case.ids, case.source()], dim=1),
    },
    "SequenceBiasLogitsProcessor": lambda case: {"sequence_bias": biases(case)},
    "NoBadWordsLogitsProcessor": lambda case: {
        "bad_words_ids": case.sequences(),
        "eos_token_id": case.draw(st.none() | st.just(case.ends())),
    },
    "PrefixConstrainedLogitsProcessor": lambda case: {
        "prefix_allowed_tokens_fn": case.allowed(),
        "num_beams": case.draw(st.sampled_from([n for n in (1, 2, 3, 4) if len(case.ids) % n == 0])),
    },
    "ForcedBOSTokenLogitsProcessor": lambda case: {"bos_token_id": case.token()},
    "ForcedEOSTokenLogitsProcessor": lambda case: {
        "max_length": case.near_length() + 1,
        "eos_token_id": case.ends(),
    },
    "InfNanRemoveLogitsProcessor": lambda case: {},
    "ExponentialDecayLengthPenalty": lambda case: {
        "exponential_decay_length_penalty": (case.draw(st.integers(0, 5)), case.number(0.5, 2)),
        "eos_token_id": case.ends(),
        "input_ids_seq_length": case.draw(st.integers(0, 3)),
    },
    "LogitNormalization": lambda case: {},
    "SuppressTokensAtBeginLogitsProcessor": lambda case: {
        "begin_suppress_tokens": case.tokens(least=0),
        "begin_index": case.near_length(),
    },
    "SuppressTokensLogitsProcessor": lambda case: {"suppress_tokens": case.tokens(least=0)},
}


def assert_equal(ours: Tensor, theirs: Tensor, tolerance: float = 0.0) -> None:
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


def applied(processor: Any, case: Case, **extra: Any) -> Tensor:
    """The new scores; what was handed in must be as it was."""
    ids, scores = case.ids.clone(), case.scores.clone()
    result = processor(case.ids, case.scores, **extra)
    assert torch.equal(case.ids, ids)
    assert_equal(case.scores, scores)
    return result


class Own(processors.LogitsProcessor):
    """A user's processor."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + 1
