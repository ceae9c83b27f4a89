"""What logits processors refuse: impossible arguments, ids beyond the vocabulary, rows that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quintet.generation import processors

from .processor_cases import INFINITY

SOURCE = torch.tensor([[1, 2]])
NO_NUMBER = (None, "1", True, float("nan"))
POSITIVE = (0, -1.0, INFINITY, *NO_NUMBER)
NO_COUNT = (-1, 1.5, True, None, "1")
NO_IDS = (-1, [], [-1], [1.5], True, torch.tensor([0.5]), "1", None)
REFUSED: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = [
    ("MinLengthLogitsProcessor", "min_length", NO_COUNT, {"eos_token_id": 1}),
    ("MinLengthLogitsProcessor", "eos_token_id", NO_IDS, {"min_length": 1}),
    ("MinNewTokensLengthLogitsProcessor", "prompt_length_to_skip", NO_COUNT, {"min_new_tokens": 1, "eos_token_id": 1}),
    ("MinNewTokensLengthLogitsProcessor", "min_new_tokens", NO_COUNT, {"prompt_length_to_skip": 1, "eos_token_id": 1}),
    ("MinNewTokensLengthLogitsProcessor", "eos_token_id", NO_IDS, {"prompt_length_to_skip": 1, "min_new_tokens": 1}),
    ("TemperatureLogitsWarper", "temperature", POSITIVE, {}),
    ("RepetitionPenaltyLogitsProcessor", "penalty", POSITIVE, {}),
    ("RepetitionPenaltyLogitsProcessor", "prompt_ignore_length", (-1, 1.5, True), {"penalty": 2.0}),
    ("EncoderRepetitionPenaltyLogitsProcessor", "penalty", POSITIVE, {"encoder_input_ids": SOURCE}),
    ("TopPLogitsWarper", "top_p", (0.0, -0.1, 1.1, *NO_NUMBER), {}),
    ("TopKLogitsWarper", "top_k", (0, *NO_COUNT), {}),
    ("MinPLogitsWarper", "min_p", (-0.1, 1.1, *NO_NUMBER), {}),
    ("TypicalLogitsWarper", "mass", (0.0, 1.0, -1, *NO_NUMBER), {}),
    ("EpsilonLogitsWarper", "epsilon", (0.0, 1.0, -1, *NO_NUMBER), {}),
    ("EtaLogitsWarper", "epsilon", (0.0, 1.0, -1, *NO_NUMBER), {}),
    ("TopKLogitsWarper", "min_tokens_to_keep", (0, *NO_COUNT), {"top_k": 5}),
    ("TopPLogitsWarper", "min_tokens_to_keep", (0, *NO_COUNT), {"top_p": 0.5}),
    ("NoRepeatNGramLogitsProcessor", "ngram_size", (0, *NO_COUNT), {}),
    ("EncoderNoRepeatNGramLogitsProcessor", "encoder_ngram_size", (0, *NO_COUNT), {"encoder_input_ids": SOURCE}),
    *(
        (name, "encoder_input_ids", ([[1]], torch.rand(1, 2), torch.tensor([[-1]]), SOURCE[None]), first)
        for name, first in (
            ("EncoderRepetitionPenaltyLogitsProcessor", {"penalty": 2.0}),
            ("EncoderNoRepeatNGramLogitsProcessor", {"encoder_ngram_size": 2}),
        )
    ),
    (
        "SequenceBiasLogitsProcessor",
        "sequence_bias",
        ([], {}, 5, None, [[1, 2.0]], [[[1]]], [[[], 1.0]], [[[-1], 1.0]], [[[1], "a"]], {(): 1.0}, {(1,): None}),
        {},
    ),
    ("NoBadWordsLogitsProcessor", "bad_words_ids", ([], None, [1], [[]], [[-1]], [[1.5]], "ab"), {}),
    ("NoBadWordsLogitsProcessor", "eos_token_id", (-1, [1.5], "1"), {"bad_words_ids": [[1]]}),
    ("PrefixConstrainedLogitsProcessor", "prefix_allowed_tokens_fn", (None, [1]), {"num_beams": 1}),
    ("PrefixConstrainedLogitsProcessor", "num_beams", (0, *NO_COUNT), {"prefix_allowed_tokens_fn": max}),
    ("HammingDiversityLogitsProcessor", "diversity_penalty", POSITIVE, {"num_beams": 4, "num_beam_groups": 2}),
    ("HammingDiversityLogitsProcessor", "num_beams", (1, *NO_COUNT), {"diversity_penalty": 1.0, "num_beam_groups": 2}),
    (
        "HammingDiversityLogitsProcessor",
        "num_beam_groups",
        (1, 3, 8, *NO_COUNT),
        {"diversity_penalty": 1.0, "num_beams": 4},
    ),
    ("ForcedBOSTokenLogitsProcessor", "bos_token_id", (-1, 1.5, [1], None), {}),
    ("ForcedEOSTokenLogitsProcessor", "max_length", (0, *NO_COUNT), {"eos_token_id": 1}),
    ("ForcedEOSTokenLogitsProcessor", "eos_token_id", NO_IDS, {"max_length": 5}),
    (
        "ExponentialDecayLengthPenalty",
        "exponential_decay_length_penalty",
        (5, (5,), (-1, 1.5), (1.5, 1.5), (1, 0.0), (1, INFINITY), None),
        {"eos_token_id": 1, "input_ids_seq_length": 1},
    ),
    (
        "ExponentialDecayLengthPenalty",
        "eos_token_id",
        NO_IDS,
        {"exponential_decay_length_penalty": (1, 1.5), "input_ids_seq_length": 1},
    ),
    (
        "ExponentialDecayLengthPenalty",
        "input_ids_seq_length",
        NO_COUNT,
        {"exponential_decay_length_penalty": (1, 1.5), "eos_token_id": 1},
    ),
    ("SuppressTokensLogitsProcessor", "suppress_tokens", ([-1], [1.5], "1", None), {}),
    ("SuppressTokensAtBeginLogitsProcessor", "begin_suppress_tokens", ([-1], [1.5]), {"begin_index": 1}),
    ("SuppressTokensAtBeginLogitsProcessor", "begin_index", NO_COUNT, {"begin_suppress_tokens": [1]}),
    ("VocabLimitLogitsProcessor", "limit", (0, *NO_COUNT), {}),
]


@pytest.mark.parametrize(("name", "argument", "values", "others"), REFUSED)
def test_refuses_impossible_arguments(
    name: str, argument: str, values: tuple[Any, ...], others: dict[str, Any]
) -> None:
    for value in values:
        with pytest.raises(ValueError, match=argument):
            getattr(processors, name)(**{argument: value}, **others)


@pytest.mark.parametrize(
    "processor",
    [
        processors.MinLengthLogitsProcessor(5, [1, 9]),
        processors.MinNewTokensLengthLogitsProcessor(0, 5, 9),
        processors.ForcedBOSTokenLogitsProcessor(9),
        processors.ForcedEOSTokenLogitsProcessor(2, 9),
        processors.ExponentialDecayLengthPenalty((0, 1.5), 9, 0),
        processors.SuppressTokensLogitsProcessor([9]),
        processors.SuppressTokensAtBeginLogitsProcessor([9], 1),
        processors.SequenceBiasLogitsProcessor([[[9, 1], 2.0]]),
        processors.NoBadWordsLogitsProcessor([[9]]),
        processors.EncoderRepetitionPenaltyLogitsProcessor(2.0, torch.tensor([[9]])),
        processors.EncoderNoRepeatNGramLogitsProcessor(2, torch.tensor([[9]])),
        processors.PrefixConstrainedLogitsProcessor(lambda source, target: [9], 1),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_refuses_ids_beyond_the_vocabulary(processor: Any) -> None:
    with pytest.raises(ValueError, match=r"9.* the vocabulary ends at 8"):
        processor(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 9))
    processor(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 10))


@pytest.mark.parametrize(
    "returned", [None, [], torch.tensor([]), [-1], [0.5], torch.tensor([[1]]), [True]], ids=lambda value: repr(value)
)
def test_refuses_prefix_functions_that_allow_nothing_sensible(returned: Any) -> None:
    processor = processors.PrefixConstrainedLogitsProcessor(lambda source, target: [2] if source == 0 else returned, 2)
    with pytest.raises(ValueError, match="source 1"):
        processor(torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, 9))


@pytest.mark.parametrize(
    "returned", [torch.tensor([2, 3]), (2, 3), range(2, 4), {2, 3}], ids=lambda v: type(v).__name__
)
def test_prefix_functions_return_any_collection(returned: Any) -> None:
    processor = processors.PrefixConstrainedLogitsProcessor(lambda source, target: returned, 1)
    result = processor(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 5))
    assert result.tolist() == [[-INFINITY, -INFINITY, 0, 0, -INFINITY]]


def test_refuses_rows_that_do_not_fit() -> None:
    ids, scores = torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 5)
    source = processors.EncoderNoRepeatNGramLogitsProcessor(1, torch.tensor([[1], [2]]))
    with pytest.raises(ValueError, match="2 rows, which does not fit 3"):
        source(ids, scores)
    prefix = processors.PrefixConstrainedLogitsProcessor(lambda source, target: [1], 1)
    prefix.select(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="2 rows are left, but 3 came"):
        prefix(ids, scores)
