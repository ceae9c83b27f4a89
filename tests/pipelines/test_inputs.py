"""What every pipeline does with its inputs: kinds, order, batches, streams, interruptions, progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset
from transformers.pipelines.pt_utils import KeyDataset

import quintet
from quintet.pipelines import InputError, base, progress

from .conftest import close

Pipes = Callable[..., tuple[Any, Any]]
TASK = "text-classification"
TEXTS = ["one", "two words", "a somewhat longer text of more words", "", "five", "the sixth text is here"]


@pytest.fixture
def pipe(make_pipes: Pipes) -> Any:
    return make_pipes(TASK)[0]


@pytest.fixture
def batches(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the pieces of each batch that the network gets, as it gets them."""
    seen: list[list[int]] = []
    compute = pipe.compute

    def record(batch: list[Any], options: Any) -> Any:
        seen.append([len(piece) for piece in batch])
        return compute(batch, options)

    monkeypatch.setattr(pipe, "compute", record)
    return seen


class Column(Sequence[str]):
    """A column of a data set, as the library `datasets` gives it."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: Any) -> Any:
        return TEXTS[index]


class Rows:
    """A data set of that library: rows are dictionaries."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return ({"text": text} for text in TEXTS)

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"text": TEXTS[index]}


class Places(Dataset[str]):
    """A data set of torch: places, and no iterator."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> str:
        return TEXTS[index]


class Stream(IterableDataset[str]):
    def __iter__(self) -> Iterator[str]:
        return iter(TEXTS)


# -- kinds of inputs


@pytest.mark.parametrize("inputs", [TEXTS, tuple(TEXTS), Column(), dict.fromkeys(TEXTS).keys(), Rows()], ids=type)
def test_whatever_has_a_length_gives_a_list(inputs: Any, pipe: Any) -> None:
    results = pipe(inputs, batch_size=2)
    assert isinstance(results, list)
    assert close(results, [pipe(text)[0] for text in TEXTS])


@pytest.mark.parametrize("inputs", [Places(), Stream(), KeyDataset(Rows(), "text"), iter(TEXTS)], ids=type)
def test_what_is_read_in_order_gives_an_iterator(inputs: Any, make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    results = ours(inputs, batch_size=4)
    assert isinstance(results, Iterator)
    results = list(results)
    assert close(results, theirs(TEXTS))
    if not isinstance(inputs, Iterator):
        assert close(results, list(theirs(inputs)))


def test_rows_where_texts_are_wanted(make_pipes: Pipes) -> None:
    with pytest.raises(ValueError, match=r'input 0: .* got dict; of a data set, give the column: dataset\["text"\]'):
        make_pipes("feature-extraction")[0](Rows())


def test_nothing_gives_nothing(make_pipes: Pipes) -> None:
    for task in (TASK, "feature-extraction", "text2text-generation"):
        ours, theirs = make_pipes(task)
        assert ours([]) == theirs([]) == []
        assert list(ours(iter([]))) == []


def test_a_generator_is_read_as_results_are_asked_for(pipe: Any) -> None:
    read: list[str] = []
    results = pipe((read.append(text) or text for text in TEXTS), batch_size=2)
    assert read == []
    next(results)
    assert read == TEXTS[:2]
    next(results)
    assert read == TEXTS[:2]
    next(results)
    assert read == TEXTS[:4]


def test_an_endless_generator(pipe: Any) -> None:
    def forever() -> Iterator[str]:
        while True:
            yield "text"

    results = pipe(forever())
    assert next(results) == next(results) == pipe("text")[0]


def test_num_workers_is_taken(pipe: Any) -> None:
    assert pipe(TEXTS, num_workers=3) == pipe(TEXTS)
    assert quintet.pipeline(TASK, model=pipe.model, tokenizer=pipe.tokenizer, num_workers=2)(TEXTS) == pipe(TEXTS)


def test_which_input_is_wrong(pipe: Any) -> None:
    """Before anything is computed, for a list; a stream answers all that came before it, of its batch too."""
    with pytest.raises(InputError, match="input 3: the input must be a text"):
        pipe(["a", "b", "c", 4])
    for size in (1, 2, 3, 8):
        results = pipe(iter(["a", "b", "c", 4, "e"]), batch_size=size)
        assert close([next(results), next(results), next(results)], pipe(["a", "b", "c"]))
        with pytest.raises(InputError, match="input 3: the input must be a text") as caught:
            next(results)
        assert caught.value.number == 3
        assert caught.value.reason.startswith("the input must be a text")
        assert list(results) == []


def test_a_generator_that_fails(pipe: Any) -> None:
    """What it gave before is answered."""

    def texts() -> Iterator[str]:
        yield from ("a", "b", "c")
        raise OSError("the disk is gone")

    results = pipe(texts(), batch_size=2)
    assert close([next(results), next(results), next(results)], pipe(["a", "b", "c"]))
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


# -- batches


def test_a_list_is_sorted_by_length(pipe: Any, batches: list[list[int]]) -> None:
    lengths = [len(pipe.tokenizer(text).input_ids) for text in TEXTS]
    pipe(TEXTS, batch_size=4)
    ordered = sorted(lengths, reverse=True)
    assert batches == [ordered[:4], ordered[4:]]


def test_one_at_a_time_keeps_the_order(pipe: Any, batches: list[list[int]]) -> None:
    """So that samples are drawn in the reference's order."""
    pipe(TEXTS)
    assert batches == [[len(pipe.tokenizer(text).input_ids)] for text in TEXTS]


def test_the_size_of_the_pipeline_and_of_the_call(make_pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, _ = make_pipes(TASK, batch_size=5)
    sizes: list[int] = []
    compute = pipe.compute
    monkeypatch.setattr(pipe, "compute", lambda batch, how: sizes.append(len(batch)) or compute(batch, how))
    pipe(TEXTS)
    pipe(TEXTS, batch_size=3)
    assert sizes == [5, 1, 3, 3]


def test_any_list_in_any_batches(make_pipes: Pipes) -> None:
    """Results are those of each text alone, in the order of the texts."""
    pipe, _ = make_pipes(TASK)
    alone: dict[str, Any] = {}

    @settings(max_examples=25)
    @given(st.lists(st.text(alphabet="ab é.", max_size=25), max_size=12), st.integers(1, 8))
    def check(texts: list[str], size: int) -> None:
        for text in texts:
            alone.setdefault(text, pipe(text, top_k=None))
        assert close(pipe(texts, batch_size=size, top_k=None), [alone[text] for text in texts])
        assert close(list(pipe(iter(texts), batch_size=size, top_k=None)), [alone[text] for text in texts])

    check()


def test_batches_need_a_padding_token(make_pipes: Pipes, vocabulary: Any) -> None:
    ours, _ = make_pipes(TASK)
    tokenizer = quintet.T5TokenizerFast.from_pretrained(vocabulary)
    tokenizer.pad_token = None
    pipe = quintet.pipeline(TASK, model=ours.model, tokenizer=tokenizer)
    assert close(pipe(TEXTS), ours(TEXTS))
    with pytest.raises(ValueError, match="Padding needs a padding token"):
        pipe(TEXTS, batch_size=2)


# -- interruptions


def interrupt_at(pipe: Any, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the given batch, counted from 0."""
    compute, calls = pipe.compute, iter(range(1000))

    def interrupted(batch: list[Any], options: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return compute(batch, options)

    monkeypatch.setattr(pipe, "compute", interrupted)


@pytest.mark.parametrize("size", [1, 2])
def test_an_interrupted_list_is_not_lost(
    size: int, pipe: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = pipe(TEXTS, batch_size=size)
    interrupt_at(pipe, 2, monkeypatch)
    results = pipe(TEXTS, batch_size=size)
    assert sum(result is not None for result in results) == 2 * size
    assert close([result for result in results if result], [whole[i] for i, result in enumerate(results) if result])
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("quintet")]
    assert messages == [f"interrupted: {2 * size} of 6 results are there, the others are None"]
    assert caplog.records[-1].levelno == logging.WARNING


def test_interrupted_texts(make_pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, _ = make_pipes("text2text-generation", max_new_tokens=2, num_beams=1)
    whole = pipe(TEXTS)
    interrupt_at(pipe, 3, monkeypatch)
    assert pipe(TEXTS) == [*whole[:3], None, None, None]


def test_before_the_first_result_an_interruption_is_one(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for inputs in (TEXTS, TEXTS[0]):
        interrupt_at(pipe, 0, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            pipe(inputs)


def test_an_interrupted_stream_is_interrupted(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(pipe, 2, monkeypatch)
    results = pipe(iter(TEXTS))
    assert next(results)
    assert next(results)
    with pytest.raises(KeyboardInterrupt):
        next(results)


# -- the model's state


def test_a_model_in_training_answers_without_dropout(make_pipes: Pipes) -> None:
    """And goes on training. (The reference answers with dropout.)"""
    pipe, _ = make_pipes(TASK)
    expected = pipe(TEXTS)
    pipe.model.train()
    try:
        assert pipe(TEXTS) == expected
        assert pipe.model.training
    finally:
        pipe.model.eval()
    with torch.enable_grad():
        assert not any(parameter.grad is not None for parameter in pipe.model.parameters())


# -- progress


@pytest.mark.parametrize(
    ("total", "terminal", "wanted", "shown"),
    [
        (progress.LONG, True, None, True),
        (progress.LONG - 1, True, None, False),
        (progress.LONG, False, None, False),
        (progress.LONG, True, False, False),
        (2, False, True, True),
    ],
)
def test_when_a_bar_is_shown(
    total: int,
    terminal: bool,
    wanted: bool | None,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress.progress_of("some task", total, wanted) as advance:
        for _ in range(total):
            advance()
    output = capsys.readouterr()
    assert output.out == ""
    assert ("some task" in output.err and f"{total}/{total}" in output.err) is shown


def test_the_bar_of_a_pipeline(pipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results = pipe(TEXTS, progress=True, batch_size=4)
    output = capsys.readouterr()
    assert (output.out, "text-classification" in output.err, "6/6" in output.err) == ("", True, True)
    assert close(results, pipe(TEXTS))
    assert capsys.readouterr().err == ""


def test_the_supported_heads_are_named_as_the_classes_are() -> None:
    for family in base.FAMILY:
        assert hasattr(quintet, f"{family}Model")
        assert hasattr(transformers, f"{family}Model")
