"""Bad input is refused at once, by the name of the option or the number of the row, and the model stays usable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import quintet

from .cases import assistant, lively_pair, source

VARIANT = "v1.1"
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sample": {"do_sample": True},
    "beams": {"num_beams": 3},
    "beam-sample": {"num_beams": 3, "do_sample": True},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "words": {"num_beams": 3, "force_words_ids": [[5]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "lookup": {"prompt_lookup_num_tokens": 3},
}


def generate(**arguments: Any) -> Tensor:
    return lively_pair(VARIANT).ours.generate(**{**source("left"), "max_new_tokens": 8, **arguments})


@contextmanager
def refusal(match: str, error: type[Exception] | tuple[type[Exception], ...] = ValueError) -> Iterator[None]:
    """Expects the error, and afterwards the answers of before: greedily, drawn, and with beams."""
    before = [earlier(way) for way in ("greedy", "sample", "beams")]
    with pytest.raises(error, match=match):
        yield
    assert all(torch.equal(*pair) for pair in zip(before, map(answer, ("greedy", "sample", "beams")), strict=True))


def answer(way: str) -> Tensor:
    torch.manual_seed(3)
    return generate(**{"max_new_tokens": 5, **WAYS[way]})


@cache
def earlier(way: str) -> Tensor:
    """The answer before anything was refused."""
    return answer(way)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": -2}, "num_beams"),
        ({"num_beams": 2.5}, "num_beams"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"num_return_sequences": 5, "num_beams": 4}, "num_return_sequences"),
        ({"num_return_sequences": 2, "prompt_lookup_num_tokens": 3}, "num_return_sequences"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": -3}, "max_new_tokens"),
        ({"min_length": -1}, "min_length"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"temperature": 0.0, "do_sample": True}, "temperature"),
        ({"temperature": -1.0, "do_sample": True}, "temperature"),
        ({"top_k": -1, "do_sample": True}, "top_k"),
        ({"top_p": -0.1, "do_sample": True}, "top_p"),
        ({"min_p": 1.5, "do_sample": True}, "min_p"),
        ({"typical_p": -0.5, "do_sample": True}, "typical_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"encoder_repetition_penalty": -1.0}, "encoder_repetition_penalty"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"bad_words_ids": []}, "bad_words_ids"),
        ({"bad_words_ids": [5]}, "bad_words_ids"),
        ({"bad_words_ids": [[-1]]}, "bad_words_ids"),
        ({"sequence_bias": {}}, "sequence_bias"),
        ({"force_words_ids": [], "num_beams": 3}, "force_words_ids"),
        ({"force_words_ids": [[-5]], "num_beams": 3}, "force_words_ids"),
        ({"early_stopping": "sometimes", "num_beams": 3}, "early_stopping"),
        ({"cache_implementation": "nonsense"}, "cache_implementation"),
        ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens"),
        ({"penalty_alpha": 1.5, "top_k": 4}, "penalty_alpha"),
        ({"penalty_alpha": "0.6", "top_k": 4}, "penalty_alpha"),
        ({"max_time": "1"}, "max_time"),
        ({"max_time": [1]}, "max_time"),
        ({"length_penalty": None, "num_beams": 2}, "length_penalty"),
        ({"length_penalty": "1"}, "length_penalty"),
        ({"decoder_start_token_id": []}, "decoder_start_token_id"),
        ({"decoder_start_token_id": [None]}, "decoder_start_token_id"),
        ({"decoder_start_token_id": -1}, "decoder_start_token_id"),
        ({"eos_token_id": [None]}, "eos_token_id"),
        ({"constraints": 1, "num_beams": 2}, "constraints"),
    ],
    ids=str,
)
def test_values_out_of_range(arguments: dict[str, Any], name: str) -> None:
    with refusal(name):
        generate(**arguments)


@pytest.mark.parametrize("options", [{"min_length": None}, {"length_penalty": None}], ids=str)
def test_none_asks_for_nothing(options: dict[str, Any]) -> None:
    assert torch.equal(generate(**options), generate())


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4, "num_beams": 2}, "penalty_alpha"),
        ({"penalty_alpha": 0.6, "top_k": 4, "do_sample": True}, "penalty_alpha"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True}, "num_beam_groups"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "num_beam_groups"),
        ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty"),
        ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beam_groups"),
        ({"force_words_ids": [[5]]}, "force_words_ids"),
        ({"force_words_ids": [[5]], "num_beams": 3, "do_sample": True}, "force_words_ids"),
        (
            {"force_words_ids": [[5]], "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
            "force_words_ids",
        ),
        ({"prompt_lookup_num_tokens": 3, "num_beams": 2}, "prompt_lookup_num_tokens"),
        ({"min_length": 9, "max_length": 6, "max_new_tokens": None}, "min_length"),
        ({"min_new_tokens": 9, "max_new_tokens": 6}, "min_new_tokens"),
    ],
    ids=str,
)
def test_contradictions(arguments: dict[str, Any], names: str) -> None:
    with refusal(names):
        generate(**arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_beams": 2}, "assistant_model"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "assistant_model"),
    ],
    ids=str,
)
def test_what_an_assistant_cannot_help_with(arguments: dict[str, Any], name: str) -> None:
    with refusal(name):
        generate(assistant_model=assistant(VARIANT, 0.02), **arguments)


def test_an_assistant_of_another_vocabulary() -> None:
    sizes = {"d_model": 16, "d_kv": 4, "num_heads": 2, "num_layers": 1, "d_ff": 8, "decoder_start_token_id": 0}
    other = quintet.T5ForConditionalGeneration(quintet.T5Config(vocab_size=50, **sizes)).eval()
    with refusal("assistant_model|vocab"):
        generate(assistant_model=other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guidance_scale", 1.5),
        ("dola_layers", "low"),
        ("low_memory", True),
        ("watermarking_config", {"bias": 2.0}),
        ("token_healing", True),
        ("negative_prompt_ids", torch.ones(6, 3, dtype=torch.long)),
        ("custom_generate", "somewhere/something"),
        ("assistant_early_exit", 1),
    ],
)
def test_what_is_not_done_is_refused_by_name(name: str, value: Any) -> None:
    with refusal(name):
        generate(**{name: value})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("max_length", [1, 3, 4])
def test_a_maximum_that_the_prefix_has_reached(way: str, max_length: int) -> None:
    prefix = torch.tensor([[0, 20, 21, 22]] * 6)
    with refusal("max_length"):
        generate(decoder_input_ids=prefix, max_length=max_length, max_new_tokens=None, **WAYS[way])


@pytest.mark.parametrize("way", ["greedy", "beams"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"input_ids": torch.zeros(2, 0, dtype=torch.long), "attention_mask": None},
        {"input_ids": torch.zeros(0, 4, dtype=torch.long), "attention_mask": None},
        {"input_ids": None, "attention_mask": None, "inputs_embeds": torch.zeros(2, 0, 32)},
    ],
    ids=["no words", "no rows", "no embeddings"],
)
def test_an_empty_source(way: str, arguments: dict[str, Any]) -> None:
    with refusal("input|source|empty"):
        generate(**arguments, **WAYS[way])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"decoder_input_ids": torch.zeros(5, 2, dtype=torch.long)}, "decoder_input_ids"),
        ({"decoder_input_ids": torch.full((6, 2), 99)}, "decoder_input_ids"),
        ({"attention_mask": torch.ones(6, 4)}, "attention_mask"),
        ({"inputs_embeds": torch.zeros(6, 4, 32)}, "inputs_embeds"),
        ({"eos_token_id": "1"}, "eos_token_id"),
        ({"decoder_start_token_id": 99}, "decoder_start_token_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_inputs_that_do_not_fit(arguments: dict[str, Any], name: str) -> None:
    with refusal(name, (ValueError, IndexError)):
        generate(**arguments)


def spoiler(spoil: Callable[[Tensor], None], step: int = 3) -> Any:
    """A processor that behaves until the prefix has `step` tokens and then changes the scores in place."""

    class Spoiler(quintet.LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            if input_ids.shape[1] >= step:
                spoil(scores)
            return scores

    return [Spoiler()]


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_processor_that_returns_no_numbers(way: str, step: int) -> None:
    with refusal(r"(?i)nan"):
        generate(logits_processor=spoiler(lambda scores: scores.fill_(torch.nan), step), min_new_tokens=6, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_processor_that_returns_the_wrong_shape(way: str) -> None:
    class Narrow(quintet.LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return scores[:, :-1]

    with refusal(r"(?i)processor|shape|Narrow"):
        generate(logits_processor=[Narrow()], **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_may_say_nothing_is_named(way: str) -> None:
    """The last row of six is left without a word; the others could go on."""

    def allowed(row: int, tokens: Tensor) -> list[int]:
        return [] if row == 5 and len(tokens) >= 3 else list(range(2, 99))

    with refusal(r"(row|source) 5\b"):
        generate(prefix_allowed_tokens_fn=allowed, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_scores_of_minus_infinity_everywhere(way: str) -> None:
    with refusal("row"):
        generate(logits_processor=spoiler(lambda scores: scores.fill_(-torch.inf)), min_new_tokens=6, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_may_only_end_is_no_error(way: str) -> None:
    """One word left, the end of the sequence, is enough where the row may end."""
    if way == "words":
        pytest.skip("words that must be said cannot come after the end")
    end = lively_pair(VARIANT).ours.config.eos_token_id
    tokens = generate(prefix_allowed_tokens_fn=lambda row, tokens: [end], **WAYS[way])
    assert tokens[:, 1].tolist() == [end] * 6


class Broken(RuntimeError):
    """The streamer's own error."""


class BrokenStreamer:
    def __init__(self, put_after: int) -> None:
        self.left = put_after

    def put(self, value: Tensor) -> None:
        if self.left == 0:
            raise Broken("the reader went away")
        self.left -= 1

    def end(self) -> None:
        if self.left < 100:
            raise Broken("the reader went away")


@pytest.mark.parametrize("put_after", [0, 1, 3, 99])
@pytest.mark.parametrize("way", [{}, {"do_sample": True}, {"num_beams": 3}], ids=["greedy", "sample", "beams"])
def test_a_streamer_that_raises(way: dict[str, Any], put_after: int) -> None:
    """Its error comes out as it is, whether it fails at once, on the way, or at the end."""
    with refusal("the reader went away", Broken):
        lively_pair(VARIANT).ours.generate(
            **source(rows=1), streamer=BrokenStreamer(put_after), max_new_tokens=8, min_new_tokens=8, **way
        )


@pytest.mark.parametrize("way", WAYS)
def test_a_criterion_that_raises(way: str) -> None:
    class Refusing(quintet.StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            raise Broken("no more")

    with refusal("no more", Broken):
        generate(stopping_criteria=[Refusing()], **WAYS[way])


@pytest.mark.parametrize("words", [[[5] * 9], [[5, 6, 7, 8], [9, 10, 11, 12, 13]], [[[5] * 9, [6] * 10]]])
def test_words_that_find_no_room(words: list[Any]) -> None:
    with refusal(r"force_words_ids|forced words"):
        generate(num_beams=3, force_words_ids=words)


def test_words_that_are_forbidden() -> None:
    """Never an endless loop, and never an answer without the word."""
    with refusal("row"):
        generate(num_beams=3, force_words_ids=[[5]], suppress_tokens=[5])
