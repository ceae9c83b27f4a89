"""From a generation configuration to processors, beside the reference's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as reference

from quintet.generation import processors

from .processor_cases import Own, assert_equal, generator

VOCABULARY = 30
OFF: dict[str, Any] = {
    "guidance_scale": None,
    "watermarking_config": None,
    "sequence_bias": None,
    "diversity_penalty": 0.0,
    "encoder_repetition_penalty": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "min_length": 0,
    "min_new_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "renormalize_logits": False,
    "max_length": 6,
    "eos_token_id": 1,
    "vocab_limit": None,
}
VALUES: dict[str, list[Any]] = {
    "sequence_bias": [[[[3, 4], 2.0], [[5], -1.0]]],
    "encoder_repetition_penalty": [1.5, None],
    "repetition_penalty": [0.8, None],
    "no_repeat_ngram_size": [2, None],
    "encoder_no_repeat_ngram_size": [2, None],
    "bad_words_ids": [[[7], [8, 9], [1]]],
    "min_length": [4, None],
    "min_new_tokens": [3, 0],
    "forced_bos_token_id": [6],
    "forced_eos_token_id": [1, [1, 2]],
    "remove_invalid_values": [True],
    "exponential_decay_length_penalty": [(1, 1.3)],
    "suppress_tokens": [[10, 11], []],
    "begin_suppress_tokens": [[12, 13]],
    "do_sample": [True, True],
    "temperature": [0.7, None],
    "top_k": [5, 0, None],
    "top_p": [0.8, None],
    "min_p": [0.1, 0.0],
    "typical_p": [0.7, None],
    "epsilon_cutoff": [0.01, None],
    "eta_cutoff": [0.01, None],
    "renormalize_logits": [True],
    "eos_token_id": [[1, 2], None],
}
BEAMS = st.sampled_from([(1, 1, 0.0), (4, 1, 0.0), (4, 2, 0.5), (4, 4, 1.0)])
CUSTOM = {
    "RepetitionPenaltyLogitsProcessor": (2.0,),
    "MinLengthLogitsProcessor": (3, 1),
    "TemperatureLogitsWarper": (0.5,),
    "EncoderNoRepeatNGramLogitsProcessor": (1, torch.arange(14, 20)),  # no token that others force
}


@cache
def tiny() -> Any:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": VOCABULARY}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))


def options(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**(OFF | changes))


def build_reference(config: SimpleNamespace, prefix_length: int, **arguments: Any) -> Any:
    ends = config.eos_token_id
    config._eos_token_tensor = None if ends is None else torch.tensor(ends).reshape(-1)
    return tiny()._get_logits_processor(config, input_ids_seq_length=prefix_length, device="cpu", **arguments)


def names(built: Any) -> list[str]:
    return [type(processor).__name__ for processor in built]


@pytest.fixture(autouse=True, scope="module")
def _quiet_reference() -> Iterator[None]:
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(level)


@settings(max_examples=100)
@given(data=st.data())
def test_builds_what_the_reference_builds(data: st.DataObject) -> None:
    """The same classes in the same order, and the same scores at every length."""
    config = options(**{name: data.draw(st.sampled_from([OFF[name], *VALUES[name]])) for name in VALUES})
    config.num_beams, config.num_beam_groups, config.diversity_penalty = data.draw(BEAMS)
    assume(config.eos_token_id is not None or config.exponential_decay_length_penalty is None)
    prefix_length, per_source = data.draw(st.integers(1, 2)), config.num_beams // config.num_beam_groups
    allowed = data.draw(st.sampled_from([None, lambda source, target: list(range(source, VOCABULARY, 2))]))
    customs = data.draw(st.lists(st.sampled_from(list(CUSTOM)), unique=True))
    random = generator(data.draw(st.integers(0, 2**31)))
    source = torch.randint(0, VOCABULARY, (2, 5), generator=random)
    ours = processors.build_processors(
        config,
        prefix_length=prefix_length,
        source_ids=source,
        rows_per_source=per_source,
        prefix_allowed_tokens_fn=allowed,
        custom=[getattr(processors, name)(*CUSTOM[name]) for name in customs],
    )
    theirs = build_reference(
        config,
        prefix_length,
        encoder_input_ids=source.repeat_interleave(per_source, dim=0),  # what it does with sources is wrong under beams
        prefix_allowed_tokens_fn=allowed,
        logits_processor=[getattr(reference, name)(*CUSTOM[name]) for name in customs],
    )
    assert names(ours) == names(theirs)
    for place, name in enumerate(names(ours)):
        if name == "ExponentialDecayLengthPenalty":  # the reference's brings back an end that was ruled out
            theirs[place] = ours[place]
    group = {"beam_group_idx": config.num_beam_groups - 1}
    group["current_tokens"] = torch.randint(0, VOCABULARY, (2 * config.num_beams,), generator=random)
    extra = group if config.num_beam_groups > 1 else {}
    for length in range(prefix_length, 6):
        ids = torch.randint(0, VOCABULARY, (2 * per_source, length), generator=random)
        scores = 3 * torch.randn(2 * per_source, VOCABULARY, generator=random)
        assert_equal(ours(ids, scores, **extra), theirs(ids, scores.clone(), **extra))


def build(config: SimpleNamespace, **arguments: Any) -> Any:
    return processors.build_processors(
        config, **({"prefix_length": 1, "source_ids": torch.tensor([[1, 2]])} | arguments)
    )


def test_builds_nothing_from_defaults() -> None:
    assert build(options()) == []
    assert isinstance(build(options()), processors.LogitsProcessorList)


def test_the_vocabulary_limit_comes_before_what_bans() -> None:
    built = build(options(vocab_limit=20, repetition_penalty=2.0, no_repeat_ngram_size=2, bad_words_ids=[[3]]))
    assert names(built) == [
        "RepetitionPenaltyLogitsProcessor",
        "VocabLimitLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "NoBadWordsLogitsProcessor",
    ]
    assert built[1].limit == 20


def test_custom_processors_replace_their_type_or_follow() -> None:
    first, second, own = processors.MinLengthLogitsProcessor(3, 1), processors.MinLengthLogitsProcessor(4, 1), Own()
    built = build(options(min_length=9, suppress_tokens=[2], do_sample=True), custom=[own, first, second, own])
    assert built[0] is first
    assert names(built[1:2]) == ["SuppressTokensLogitsProcessor"]
    assert built[2:4] == [own, second]
    assert names(built[4:]) == ["TopKLogitsWarper"]


def test_rows_that_leave_stay_in_the_users_processors() -> None:
    """They may be used for the next call of `generate`."""
    holders = [
        processors.EncoderRepetitionPenaltyLogitsProcessor(2.0, torch.eye(3).long()),
        processors.PrefixConstrainedLogitsProcessor(lambda source, target: [source], 1),
    ]
    ids, scores = torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 5)
    before = [holder(ids, scores) for holder in holders]
    for built in (build(options(), custom=holders), build(options(), custom=holders)):
        built.select(torch.tensor([1]))
        built(ids[:1], scores[:1])
        for holder, expected in zip(holders, before, strict=True):
            assert torch.equal(holder(ids, scores), expected)


@pytest.mark.parametrize("option", ["encoder_repetition_penalty", "encoder_no_repeat_ngram_size"])
def test_refuses_what_needs_source_ids_without_them(option: str) -> None:
    """The reference warns and goes on without."""
    with pytest.raises(ValueError, match=f"{option}: needs the source"):
        build(options(**{option: 2}), source_ids=None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("encoder_repetition_penalty", -1.0),
        ("repetition_penalty", 0.0),
        ("no_repeat_ngram_size", -1),
        ("min_length", -1),
        ("min_new_tokens", -1),
        ("diversity_penalty", -1.0),
        ("bad_words_ids", []),
        ("sequence_bias", []),
        ("forced_bos_token_id", -1),
        ("vocab_limit", 0),
        ("top_k", -1),
        ("top_p", 1.5),
        ("min_p", 2.0),
        ("typical_p", 1.5),
        ("epsilon_cutoff", 1.0),
        ("eta_cutoff", -0.1),
        ("temperature", 0.0),
    ],
)
def test_refuses_impossible_options_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option}: "):
        build(options(do_sample=True, **{option: value}))


def test_refuses_an_ever_likelier_end_without_an_end() -> None:
    with pytest.raises(ValueError, match=r"exponential_decay_length_penalty: eos_token_id"):
        build(options(exponential_decay_length_penalty=(1, 1.5), eos_token_id=None))


def test_refuses_custom_processors_that_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="must be callable, got 5"):
        build(options(), custom=[5])
