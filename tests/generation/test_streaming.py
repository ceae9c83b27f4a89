"""`generate(streamer=...)`: what is certain is handed on at once, under beams too, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from ..model.reference import make_batch, shared_pair

HEAD = "ForConditionalGeneration"
TEXTS = ["translate English to German: The house is wonderful.", "translate English to French: I am here, and you?"]


class Recorder(quintet.BaseStreamer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.puts: list[Tensor] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        assert not self.ended
        self.puts.append(value)

    def end(self) -> None:
        self.ended = True

    @property
    def tokens(self) -> list[int]:
        return [token for put in self.puts for token in put.flatten().tolist()]


def one(row: int = 0) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in make_batch("EncoderModel").items()}


def test_greedy_hands_on_the_prefix_and_every_token() -> None:
    recorder = Recorder()
    found = shared_pair(HEAD, "v1.1", "sdpa").ours.generate(**one(), max_new_tokens=6, streamer=recorder)
    assert recorder.ended
    assert [put.tolist() for put in recorder.puts] == [[[0]], *([token] for token in found[0, 1:].tolist())]


def test_a_batch_is_handed_on_step_by_step() -> None:
    recorder = Recorder()
    options = {"max_new_tokens": 9, "eos_token_id": 14}
    found = shared_pair(HEAD, "v1.1", "sdpa").ours.generate(**make_batch("EncoderModel"), **options, streamer=recorder)
    steps = torch.stack(recorder.puts[1:], dim=1)
    assert torch.equal(steps, found[:, 1:])


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"length_penalty": 2.0}], ids=str)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_beams_hand_on_what_all_of_them_share(row: int, options: dict[str, Any]) -> None:
    model = shared_pair(HEAD, "v1.1", "sdpa").ours
    options = {**one(row), **options, "num_beams": 3, "max_new_tokens": 30, "eos_token_id": 14}
    recorder = Recorder()
    found = model.generate(**options, streamer=recorder)
    assert recorder.ended
    assert recorder.tokens == found[0].tolist()
    assert torch.equal(found, model.generate(**options))


def test_beams_do_not_wait_for_the_end() -> None:
    """A source on which the beams agree early is streamed long before its last token."""
    model = shared_pair(HEAD, "v1.1", "sdpa").ours
    early = []
    for row in range(3):
        recorder = Recorder()
        model.generate(**one(row), num_beams=3, max_new_tokens=30, eos_token_id=None, streamer=recorder)
        early.append(len(recorder.puts))
    assert max(early) > 5


@pytest.mark.parametrize("text", TEXTS)
def test_the_printed_text_is_the_reference_s(shared: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "models" / "flan-t5-small-title"
    printed = []
    for library in (quintet, transformers):
        tokenizer = library.AutoTokenizer.from_pretrained(folder)
        model = library.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        streamer = library.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        model.generate(ids, max_new_tokens=20, streamer=streamer)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


def failing(ids: Tensor, scores: Tensor) -> Tensor:
    if ids.shape[1] > 3:
        raise RuntimeError("out of luck")
    return scores


@pytest.fixture
def tokenizer() -> Any:
    return quintet.ByT5Tokenizer()


def test_a_thread_reads_while_another_decodes(tokenizer: Any) -> None:
    model = shared_pair(HEAD, "t5", "sdpa").ours
    streamer = quintet.TextIteratorStreamer(tokenizer, timeout=60)
    expected = tokenizer.decode(model.generate(**one(), max_new_tokens=12)[0])
    thread = threading.Thread(target=model.generate, kwargs={**one(), "max_new_tokens": 12, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expected
    thread.join(60)


def test_an_error_reaches_the_reader(tokenizer: Any) -> None:
    model = shared_pair(HEAD, "t5", "sdpa").ours
    streamer = quintet.TextIteratorStreamer(tokenizer)
    with pytest.raises(RuntimeError, match="out of luck"):
        model.generate(**one(), max_new_tokens=12, streamer=streamer, logits_processor=[failing])
    with pytest.raises(RuntimeError, match="out of luck"):
        list(streamer)


def test_an_asynchronous_reader(tokenizer: Any) -> None:
    model = shared_pair(HEAD, "t5", "sdpa").ours

    async def read() -> str:
        streamer = quintet.AsyncTextIteratorStreamer(tokenizer)
        keywords = {**one(), "max_new_tokens": 12, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs=keywords)
        thread.start()
        text = "".join([part async for part in streamer])
        thread.join(60)
        return text

    assert asyncio.run(read()) == tokenizer.decode(model.generate(**one(), max_new_tokens=12)[0])


def test_drafts_are_streamed_when_they_are_accepted() -> None:
    model = shared_pair(HEAD, "v1.1", "sdpa").ours
    recorder = Recorder()
    found = model.generate(**one(), max_new_tokens=9, assistant_model=model, streamer=recorder)
    assert recorder.tokens == found[0].tolist()


@pytest.mark.parametrize("options", [{"num_return_sequences": 2}, {}], ids=["two-sequences", "two-sources"])
def test_beams_of_several_sequences_cannot_be_streamed(options: dict[str, Any]) -> None:
    batch = one() if options else make_batch("EncoderModel")
    with pytest.raises(ValueError, match="streamer under beams"):
        shared_pair(HEAD).ours.generate(**batch, num_beams=2, streamer=Recorder(), **options)
