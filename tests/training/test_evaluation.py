"""Evaluation: the loss is the reference's, answers are measured by all references."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import sacrebleu
import torch
import transformers

import quintet
from quintet.training.data.examples import TaskExamples
from quintet.training.data.records import Source
from quintet.training.data.tasks import Task
from quintet.training.data.tokenizing import tokenize_task
from quintet.training.evaluation import Evaluator
from quintet.training.sets import HeldOut, held_out

from ..model.reference import make_pair

PAIRS = [("a", "first"), ("bb", "second answer"), ("a", "another"), ("ccc", "x"), ("a", "third one")]


def held(folder: Path, limit: int | None = None, metrics: tuple[str, ...] = ("sacrebleu",)) -> HeldOut:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in PAIRS), encoding="utf-8")
    task = Task("t", Source([path]), prefix="p: ", metrics=metrics)
    return held_out(task, TaskExamples("t", tokenize_task(task, quintet.ByT5Tokenizer(), folder), 64, 64), limit)


def evaluator(*sets: HeldOut, batch_size: int = 2) -> Evaluator:
    return Evaluator(
        sets=sets,
        tokenizer=quintet.ByT5Tokenizer(),
        batch_size=batch_size,
        num_beams=1,
        max_source_length=64,
        max_new_tokens=8,
        precision=nullcontext(),
    )


@pytest.fixture(scope="module")
def pair() -> tuple[quintet.T5ForConditionalGeneration, transformers.T5ForConditionalGeneration]:
    made = make_pair("ForConditionalGeneration", vocab_size=384, decoder_start_token_id=0)
    return made.ours, made.theirs


def test_the_loss_is_the_mean_over_all_tokens(tmp_path: Path, pair: tuple) -> None:
    ours, theirs = pair
    tokenizer = quintet.ByT5Tokenizer()
    summed = tokens = 0
    for source, target in PAIRS:
        labels = tokenizer(target, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = theirs(**tokenizer("p: " + source, return_tensors="pt"), labels=labels).loss
        summed += loss.item() * labels.numel()
        tokens += labels.numel()
    found = evaluator(held(tmp_path))(ours)
    assert found.numbers["loss"] == pytest.approx(summed / tokens, rel=1e-5)


def test_answers_are_the_references_and_measured_by_all_targets(tmp_path: Path, pair: tuple) -> None:
    ours, theirs = pair
    found = evaluator(held(tmp_path))(ours)
    assert [sample.source for sample in found.samples] == ["p: a", "p: bb", "p: ccc"]
    assert found.samples[0].references == ["first", "another", "third one"]
    tokenizer = quintet.ByT5Tokenizer()
    for sample in found.samples:
        ids = theirs.generate(**tokenizer(sample.source, return_tensors="pt"), max_new_tokens=8, num_beams=1)
        assert sample.answer == tokenizer.decode(ids[0], skip_special_tokens=True)
    streams = [["first", "second answer", "x"], ["another", None, None], ["third one", None, None]]
    expected = sacrebleu.corpus_bleu([sample.answer for sample in found.samples], streams).score
    assert found.numbers["sacrebleu"] == pytest.approx(expected)


def test_whoever_waits_sees_how_far_it_is(tmp_path: Path, pair: tuple) -> None:
    """Five pairs, and three sources to answer."""
    seen: list[int] = []
    measure = evaluator(held(tmp_path))
    replace(measure, advance=lambda: seen.append(1))(pair[0])
    assert len(seen) == measure.size == len(PAIRS) + 3


def test_several_sets(tmp_path: Path, pair: tuple) -> None:
    one = held(tmp_path, metrics=("exact_match",))
    without_answers = HeldOut("u", one.examples)
    measure = evaluator(one, without_answers)
    numbers = measure(pair[0]).numbers
    assert list(numbers) == measure.names() == ["loss", "exact_match", "t_loss", "t_exact_match", "u_loss"]
    assert numbers["loss"] == pytest.approx(numbers["t_loss"]) == pytest.approx(numbers["u_loss"])


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 9])
def test_a_part_is_spread_over_the_whole(tmp_path: Path, limit: int) -> None:
    one = held(tmp_path, limit)
    assert len(one.examples) == min(limit, 5)
    assert len(one.sources) == min(limit, 3)
    assert one.sources[0] == "p: a"
    if limit == 2:  # of five
        labels = [one.examples.example(place, ())["labels"].tolist() for place in range(2)]
        assert labels == quintet.ByT5Tokenizer()([PAIRS[0][1], PAIRS[2][1]])["input_ids"]


def test_the_model_is_left_in_its_mode(tmp_path: Path, pair: tuple) -> None:
    model = pair[0]
    for training in (True, False):
        model.train(training)
        first, second = (evaluator(held(tmp_path))(model).numbers["loss"] for _ in range(2))
        assert first == second  # no dropout
        assert model.training is training
