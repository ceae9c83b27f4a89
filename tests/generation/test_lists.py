"""Long lists: batched by length, in order again, with progress, and kept as far as they came on an interrupt."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from ..model.reference import PAD, make_batch, shared_pair

HEAD = "ForConditionalGeneration"


def rows(count: int = 7) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = [3, 11, 1, 6, 2, 9, 4][:count]
    return [torch.randint(3, 99, (length,), generator=generator).tolist() for length in lengths]


def alone(model: Any, **options: Any) -> list[list[int]]:
    """Each source by itself, without padding."""
    return [[part.tolist() for part in model.generate(torch.tensor([row]), **options)] for row in rows()]


def without_padding(sequences: Any, expected: list[list[list[int]]]) -> None:
    flat = [row for own in expected for row in own]
    assert len(sequences) == len(flat)
    for sequence, row in zip(sequences.tolist(), flat, strict=True):
        assert sequence[: len(row)] == row
        assert set(sequence[len(row) :]) <= {PAD}


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"prompt_lookup_num_tokens": 3}], ids=str
)
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_a_list_of_any_lengths(options: dict[str, Any], batch_size: int | None) -> None:
    model = shared_pair(HEAD, "v1.1", "sdpa").ours
    options = {**options, "max_new_tokens": 9, "eos_token_id": 14}
    without_padding(model.generate(rows(), batch_size=batch_size, **options), alone(model, **options))


def test_a_tensor_in_batches_equals_the_tensor_at_once() -> None:
    model = shared_pair(HEAD, "umt5", "sdpa").ours
    batch = make_batch("EncoderModel", "left")
    once = model.generate(**batch, max_new_tokens=8)
    assert torch.equal(model.generate(**batch, max_new_tokens=8, batch_size=2), once)
    prefix = torch.tensor([[0, 5], [0, 6], [0, 7]])
    once = model.generate(**batch, decoder_input_ids=prefix, max_new_tokens=8)
    assert torch.equal(model.generate(**batch, decoder_input_ids=prefix, max_new_tokens=8, batch_size=1), once)


def test_a_prefix_function_knows_sources_by_their_place_in_the_list() -> None:
    model = shared_pair(HEAD, "t5", "sdpa").ours
    sequences = model.generate(
        rows(), batch_size=2, max_new_tokens=3, prefix_allowed_tokens_fn=lambda source, ids: [20 + source]
    )
    assert sequences[:, 1:].tolist() == [[20 + source] * 3 for source in range(7)]


def test_an_interrupt_keeps_what_is_finished(caplog: pytest.LogCaptureFixture) -> None:
    model = shared_pair(HEAD, "t5", "sdpa").ours
    done: list[int] = []

    def stop_at_the_third(source: int, ids: torch.Tensor) -> list[int]:
        if source not in done:
            done.append(source)
        if len(done) == 3:
            raise KeyboardInterrupt
        return [30]

    options = {"batch_size": 1, "max_new_tokens": 2, "prefix_allowed_tokens_fn": stop_at_the_third}
    with caplog.at_level(logging.WARNING, "quintet"):
        sequences = model.generate(rows(), **options)
    finished = done[:2]
    assert finished == [1, 5], "the longest come first"
    for source, row in enumerate(sequences.tolist()):
        assert row == ([0, 30, 30] if source in finished else [PAD] * 3)
    assert "2 of 7" in caplog.text


def test_an_interrupt_before_anything_is_finished_is_one() -> None:
    def stop(source: int, ids: torch.Tensor) -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_pair(HEAD).ours.generate(rows(), prefix_allowed_tokens_fn=stop)


def test_progress_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    model = shared_pair(HEAD).ours
    model.generate(rows(), batch_size=2, max_new_tokens=1)
    assert capsys.readouterr() == ("", ""), "standard error is no terminal here"
    model.generate(rows(), batch_size=2, max_new_tokens=1, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "7/7" in shown.err


def test_an_empty_list_has_no_sequences() -> None:
    assert len(shared_pair(HEAD).ours.generate([])) == 0


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([[5], []], {}, "row 1 of the input"),
        ([[5], ["a"]], {}, "row 1 of the input"),
        ([[5], [6]], {"batch_size": 0}, "batch_size"),
        ([[5], [6]], {"return_dict_in_generate": True}, "return_dict_in_generate"),
        ([[5], [6]], {"streamer": object()}, "streamer"),
    ],
)
def test_bad_lists_are_refused(inputs: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared_pair(HEAD).ours.generate(inputs, **options)
