"""Beams, samples and the options that checkpoints bring, beside the reference's pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import quintet

Pipes = Callable[..., tuple[Any, Any]]
TASK = "text2text-generation"
TEXTS = ["The house is wonderful.", "", "What color is the sky, and what color is the sea?"]
# As the configuration of t5-small has them, with smaller lengths.
PARAMETERS = {
    "summarization": {
        "early_stopping": True,
        "length_penalty": 2.0,
        "max_length": 200,
        "min_length": 8,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "prefix": "summarize: ",
    },
    "translation_en_to_de": {
        "early_stopping": True,
        "max_length": 300,
        "num_beams": 2,
        "prefix": "translate English to German: ",
        "unheard_of": 3,
    },
}
SHORT = {"max_new_tokens": 12}


@pytest.fixture
def pipes(make_pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> Pipes:
    """For a task, both pipelines on small models whose configuration has the tasks of `PARAMETERS`."""

    def make(task: str = TASK, **options: Any) -> tuple[Any, Any]:
        ours, theirs = make_pipes(TASK)
        for pipe in (ours, theirs):  # the reference's pipeline takes the prefix out
            monkeypatch.setattr(pipe.model.config, "task_specific_params", json.loads(json.dumps(PARAMETERS)))
        return tuple(
            library.pipeline(task, model=pipe.model, tokenizer=pipe.tokenizer, **options)
            for library, pipe in ((quintet, ours), (transformers, theirs))
        )

    return make


@pytest.mark.parametrize("task", [TASK, *PARAMETERS])
def test_what_the_task_and_the_reference_bring(task: str, pipes: Pipes) -> None:
    """Four beams, or what the task's parameters say."""
    ours, theirs = pipes(task)
    expected = theirs(TEXTS, **SHORT)
    assert ours(TEXTS, **SHORT) == expected
    assert ours(TEXTS, batch_size=3, **SHORT) == expected
    assert ours(TEXTS, num_beams=1, **SHORT) != expected, "the test shows nothing if beams find what greedy finds"


def test_beams_on_a_trained_checkpoint(checkpoint: Any) -> None:
    text = ["translate English to German: The house is wonderful.", "What color is the sky?"]
    ours = quintet.pipeline(TASK, model=checkpoint, dtype="float32")
    theirs = transformers.pipeline(TASK, model=str(checkpoint), dtype="float32")
    assert ours(text, max_new_tokens=16) == theirs(text, max_new_tokens=16)


def test_parameters_of_the_task_reach_generate(pipes: Pipes) -> None:
    """A min_length of 8 tokens, where the model would end before."""
    ours, theirs = pipes("summarization")
    results = [pipe(TEXTS, return_tensors=True, **SHORT) for pipe in (ours, theirs)]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one["summary_token_ids"], other["summary_token_ids"])
        assert len(one["summary_token_ids"]) >= 8


def test_the_call_wins_over_the_task(pipes: Pipes) -> None:
    ours, theirs = pipes("summarization")
    options = {"num_beams": 1, "min_length": 0, "no_repeat_ngram_size": 0, **SHORT}
    assert ours(TEXTS, **options) == theirs(TEXTS, **options)


def test_the_pipeline_s_own_options_win_over_the_task(pipes: Pipes) -> None:
    """(In the reference the task's parameters win over what the user gave the pipeline.)"""
    options = {"num_beams": 1, "min_length": 0, "no_repeat_ngram_size": 0, **SHORT}
    ours, theirs = pipes("summarization", **options)
    assert ours(TEXTS) == theirs(TEXTS, **options)


def test_beams_of_the_checkpoint_win_over_the_reference_s_default(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the reference's documentation says; its code takes four beams all the same."""
    ours, theirs = pipes()
    monkeypatch.setattr(ours.model.generation_config, "num_beams", 2)
    assert ours(TEXTS, **SHORT) == theirs(TEXTS, num_beams=2, **SHORT)


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1]], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_answers(count: int, inputs: Any, pipes: Pipes) -> None:
    """A list for each text, unless there is one answer."""
    ours, theirs = pipes()
    options = {"num_beams": 3, "num_return_sequences": count, **SHORT}
    expected = theirs(inputs, **options)
    assert ours(inputs, **options) == expected
    assert ours(inputs, batch_size=2, **options) == expected


def test_several_answers_as_ids(pipes: Pipes) -> None:
    ours, theirs = pipes()
    options = {"num_beams": 3, "num_return_sequences": 2, "return_tensors": True, **SHORT}
    expected = theirs(TEXTS, **options)
    for size in (1, 3):
        for mine, reference in zip(ours(TEXTS, batch_size=size, **options), expected, strict=True):
            for one, other in zip(mine, reference, strict=True):
                assert torch.equal(one["generated_token_ids"], other["generated_token_ids"])


def seeded(answer: Callable[[], Any]) -> Any:
    torch.manual_seed(3)
    return answer()


def test_samples(pipes: Pipes) -> None:
    """Of one seed, the reference's. (For a list it draws a number for its data loader first.)"""
    ours, theirs = pipes(do_sample=True, num_beams=1, num_return_sequences=2, top_k=20, **SHORT)
    assert seeded(lambda: ours(TEXTS[0])) == seeded(lambda: theirs(TEXTS[0]))
    assert seeded(lambda: ours(TEXTS)) == seeded(lambda: [ours(text) for text in TEXTS])


def test_more_answers_than_beams(pipes: Pipes) -> None:
    for pipe in pipes():
        with pytest.raises(ValueError, match="num_return_sequences"):
            pipe(TEXTS, num_beams=2, num_return_sequences=3)
