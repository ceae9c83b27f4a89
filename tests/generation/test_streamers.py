"""Streamers beside the reference's: the same pieces of text for the same tokens; threads, coroutines, errors."""

from __future__ import annotations

import asyncio
import queue
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, get_ident
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quintet.generation import streamers

from ..tokenization.oracle import Pair, byt5_pair, load_pair, sentences

PATIENCE = 20
"""Seconds after which a test counts as hanging."""
EOS = 1

TEXTS = {
    "english": "The house is wonderful, isn't it? Yes . And no !",
    "sentinels": "<extra_id_0> cute dog <extra_id_1> the <extra_id_2></s> and more",
    "lines": "One line.\nAnother line\n\n and a third",
    "chinese": "東京は日本の首都。北京是首都, 对吗? 是",
    "japanese": "ながいぶんです カタカナも",
    "thai": "ประเทศไทย และ",
    "mixed": "Ünïcödé 😀 naïve 中文 text\n🎉🎉 fin",
    "empty": "",
}
OPTIONS = [
    {},
    {"skip_prompt": True},
    {"skip_special_tokens": True},
    {"skip_prompt": True, "skip_special_tokens": True, "clean_up_tokenization_spaces": True},
]


def tokenizer_pair(name: str, shared: Path) -> Pair:
    if name == "byt5":
        return byt5_pair()
    vocabulary, class_name = name.split("-")
    return load_pair(class_name, shared / "tokenizers" / vocabulary)


TOKENIZERS = ["t5-T5Tokenizer", "t5-T5TokenizerFast", "mt5-T5Tokenizer", "byt5"]


@pytest.fixture(scope="module", params=TOKENIZERS)
def pair(request: pytest.FixtureRequest, shared: Path) -> Pair:
    return tokenizer_pair(request.param, shared)


@pytest.fixture(scope="module")
def slow(shared: Path) -> Pair:
    return tokenizer_pair("t5-T5Tokenizer", shared)


class Written:
    """Mixed into a streamer: keeps the pieces instead of printing them."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.__dict__.setdefault("pieces", []).append((text, stream_end))


class Ours(Written, streamers.TextStreamer):
    pass


class Theirs(Written, transformers.TextStreamer):
    pass


def pieces(streamer: Any, puts: Sequence[Tensor]) -> list[tuple[str, bool]]:
    for value in puts:
        streamer.put(value)
    streamer.end()
    return streamer.pieces


def assert_same_pieces(pair: Pair, puts: Sequence[Tensor], **options: Any) -> None:
    assert pieces(Ours(pair.ours, **options), puts) == pieces(Theirs(pair.theirs, **options), puts)


def assert_cache_changes_nothing(tokenizer: Any, puts: Sequence[Tensor], **options: Any) -> None:
    """Both streamers on our tokenizer: the reference's takes minutes to decode a long text again and again."""
    assert_same_pieces(Pair(tokenizer, tokenizer), puts, **options)


def as_generated(ids: Sequence[int], sizes: Sequence[int] = (1,)) -> list[Tensor]:
    """What `generate` puts: the start token as a batch of one, then tokens, one or several at a time."""
    puts, start, turn = [torch.tensor([[0]])], 0, 0
    while start < len(ids):
        size = sizes[turn % len(sizes)]
        puts.append(torch.tensor(ids[start : start + size]))
        start, turn = start + size, turn + 1
    return puts


# Pieces of text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "sizes"), [*((options, (1,)) for options in OPTIONS), ({}, (3, 1, 2))], ids=str)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_same_pieces(text: str, options: dict[str, Any], sizes: tuple[int, ...], pair: Pair) -> None:
    assert_same_pieces(pair, as_generated(pair.ours.encode(text), sizes), **options)


@pytest.mark.parametrize("skip", [False, True])
def test_real_sentences(skip: bool, pair: Pair, shared: Path) -> None:
    for language in ("en", "de"):
        for text in sentences(shared, language, 6):
            assert_same_pieces(pair, as_generated(pair.ours.encode(text)), skip_special_tokens=skip)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_long_texts(seed: int, options: dict[str, Any], pair: Pair, shared: Path) -> None:
    """So long that old tokens leave the cache; words, ideographs, text without spaces, special tokens, in turns."""
    choose = random.Random(seed)
    parts = [
        *sentences(shared, "en", 50),
        *sentences(shared, "fr", 50),
        *TEXTS.values(),
        "ながい" * 40,
        "ไทย" * 40,
        "é\n",
    ]
    parts += ["</s>", "<pad>", "<unk>", "<extra_id_3>"][: 4 * (seed % 2)] * 4
    text = "".join(choose.choice(["", " "]) + choose.choice(parts) for _ in range(80))
    ids = pair.ours.encode(text if seed else text.replace("\n", " "))[:500]
    assert len(ids) > 400
    assert_cache_changes_nothing(pair.ours, as_generated(ids, choose.choices([1, 1, 2, 5], k=7)), **options)


@settings(max_examples=40)
@given(data=st.data())
def test_any_tokens(pair: Pair, data: st.DataObject) -> None:
    """Whatever a model may write: broken characters, special tokens anywhere, spaces in a row."""
    count = len(pair.ours)
    few = st.lists(st.integers(0, count - 1), min_size=1, max_size=6).map(lambda ids: [0, 1, *ids])
    known = data.draw(st.one_of(few, st.just(range(count))))
    ids = data.draw(st.lists(st.sampled_from(known), max_size=30)) * data.draw(st.integers(1, 8))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    options = {name: True for name in ("skip_prompt", "skip_special_tokens") if data.draw(st.booleans())}
    options["clean_up_tokenization_spaces"] = data.draw(st.booleans())
    assert_cache_changes_nothing(pair.ours, as_generated(ids, sizes), **options)


def test_a_space_before_a_closing_token(slow: Pair) -> None:
    """T5Tokenizer puts one in front of all that follows the last special token, however far back that is."""
    words = slow.ours.encode("word " * 150, add_special_tokens=False)
    for ids in ([*words, EOS, *words, EOS], [EOS, *words, 0, *words, EOS, *words], [*words, EOS]):
        assert_cache_changes_nothing(slow.ours, as_generated(ids))


@pytest.mark.parametrize("skip", [False, True])
def test_more_spaces_than_the_cache_keeps(skip: bool, slow: Pair) -> None:
    """T5Tokenizer strips them as long as nothing follows."""
    word, space = slow.ours.convert_tokens_to_ids(["▁house", "▁"])
    assert_cache_changes_nothing(slow.ours, as_generated([word, *[space] * 150, word]), skip_special_tokens=skip)


class Counting:
    """A tokenizer that notes how many ids it is given at once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_token_id
        self.most = 0

    def decode(self, ids: list[int], **options: Any) -> str:
        self.most = max(self.most, len(ids))
        return self.tokenizer.decode(ids, **options)


@pytest.mark.parametrize("text", ["The house is wonderful. ", "unbrokenword"])
def test_each_step_decodes_few_tokens(text: str, pair: Pair) -> None:
    """The reference decodes all of them at every step, unless there is an end of line."""
    ids = pair.ours.encode(text * 100, add_special_tokens=False)[:300]
    tokenizers = Pair(Counting(pair.ours), Counting(pair.ours))
    assert_same_pieces(tokenizers, as_generated(ids), skip_special_tokens=True)
    assert tokenizers.theirs.most > 200
    assert tokenizers.ours.most < 100


def test_a_tokenizer_that_can_only_decode() -> None:
    class Letters:
        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

    puts = as_generated([ord(letter) for letter in "some words, and " * 20])
    assert_same_pieces(Pair(Letters(), Letters()), puts)


def test_one_streamer_for_several_sequences(pair: Pair) -> None:
    one, other = Ours(pair.ours, skip_prompt=True), Theirs(pair.theirs, skip_prompt=True)
    for text in ("First text", "東京", "", "Another one\n"):
        puts = as_generated(pair.ours.encode(text))
        assert pieces(one, puts) == pieces(other, puts)


def test_printed_text(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for streamer in (
        streamers.TextStreamer(pair.ours, skip_special_tokens=True),
        transformers.TextStreamer(pair.theirs, skip_special_tokens=True),
    ):
        for value in as_generated(pair.ours.encode("Two lines of\ntext")):
            streamer.put(value)
        streamer.end()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].endswith("text\n")


def test_shapes_that_are_taken(slow: Pair) -> None:
    ids = slow.ours.encode("one two three")
    texts = [
        pieces(Ours(slow.ours), [value])
        for value in (torch.tensor(ids), torch.tensor([ids]), np.array(ids), ids, torch.tensor(ids, dtype=torch.int32))
    ]
    assert texts == [pieces(Theirs(slow.theirs), [torch.tensor(ids)])] * 5


@pytest.mark.parametrize("shape", [(2, 1), (2, 3), (0, 3), (1, 1, 3), ()], ids=str)
@pytest.mark.parametrize("name", ["TextStreamer", "TextIteratorStreamer"])
def test_batches_are_refused(name: str, shape: tuple[int, ...], slow: Pair) -> None:
    with pytest.raises(ValueError, match=r"TextStreamer only supports batch size 1: got ids of shape \("):
        getattr(streamers, name)(slow.ours, skip_prompt=True).put(torch.zeros(shape, dtype=torch.int64))


def test_batches_are_refused_as_by_the_reference(slow: Pair) -> None:
    with pytest.raises(ValueError, match="TextStreamer only supports batch size 1"):
        transformers.TextStreamer(slow.theirs, skip_prompt=True).put(torch.zeros(2, 3, dtype=torch.int64))


def test_a_streamer_without_a_rule() -> None:
    with pytest.raises(NotImplementedError, match="BaseStreamer must define put"):
        streamers.BaseStreamer().put(torch.tensor([1]))
    with pytest.raises(NotImplementedError, match="BaseStreamer must define end"):
        streamers.BaseStreamer().end()


# Iterating in another thread -------------------------------------------------------------------------------------


def generate(streamer: Any, puts: Sequence[Tensor], error: BaseException | None = None) -> None:
    """What `generate` does with a streamer; with `error`, what it does where that is raised."""
    for value in puts:
        streamer.put(value)
    if error is None:
        streamer.end()
    else:
        streamer.fail(error)


@contextmanager
def in_a_thread(work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    thread = Thread(target=work, args=arguments, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_pieces_arrive_in_another_thread(pair: Pair) -> None:
    puts = as_generated(pair.ours.encode(TEXTS["mixed"]))
    arrived = []
    for streamer in (
        streamers.TextIteratorStreamer(pair.ours, timeout=PATIENCE),
        transformers.TextIteratorStreamer(pair.theirs, timeout=PATIENCE),
    ):
        for _ in range(2):  # a streamer serves one generation after the other
            with in_a_thread(generate, streamer, puts):
                arrived.append(list(streamer))
    assert arrived[0] == arrived[1] == arrived[2] == arrived[3]
    assert len(arrived[0]) == len(puts) + 1


def test_next_after_the_end(slow: Pair) -> None:
    streamer = streamers.TextIteratorStreamer(slow.ours, timeout=PATIENCE)
    generate(streamer, as_generated([EOS]))
    assert list(streamer) == ["", "", "<pad></s>"]
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(streamer)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_an_error_reaches_the_consumer(error: BaseException, slow: Pair) -> None:
    streamer = streamers.TextIteratorStreamer(slow.ours, skip_prompt=True, timeout=PATIENCE)
    words = as_generated(slow.ours.encode("some words"))
    seen = []
    with in_a_thread(generate, streamer, words[:-1], error):
        with pytest.raises(type(error)) as caught:
            seen.extend(streamer)  # does not keep what came before an error
        assert caught.value is error
    with pytest.raises(StopIteration):
        next(streamer)

    # Nothing of the failed generation is left over.
    with in_a_thread(generate, streamer, words):
        assert "".join(streamer) == "some words</s>"


def test_text_before_an_error_is_delivered(slow: Pair) -> None:
    streamer = streamers.TextIteratorStreamer(slow.ours, skip_prompt=True, timeout=PATIENCE)
    generate(streamer, as_generated(slow.ours.encode("some words")), ValueError("no"))
    assert [next(streamer) for _ in range(3)] == ["", "some ", ""]
    with pytest.raises(ValueError, match="no"):
        next(streamer)


def test_no_text_in_time(slow: Pair) -> None:
    with pytest.raises(queue.Empty):
        next(streamers.TextIteratorStreamer(slow.ours, timeout=0.01))
    with pytest.raises(queue.Empty):
        next(transformers.TextIteratorStreamer(slow.theirs, timeout=0.01))


def test_a_subclass_with_a_signal_of_its_own(slow: Pair) -> None:
    """As users of the reference write them: `text_queue`, `stop_signal` and `on_finalized_text` are there."""

    def upper(base: Any, tokenizer: Any) -> list[str]:
        class Upper(base):
            def __init__(self, tokenizer: Any) -> None:
                super().__init__(tokenizer, timeout=PATIENCE)
                self.stop_signal = "<end>"

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                self.text_queue.put(text.upper())
                if stream_end:
                    self.text_queue.put("<end>")

        streamer = Upper(tokenizer)
        generate(streamer, as_generated(slow.ours.encode("some words")))
        return list(streamer)

    ours, theirs = (
        upper(streamers.TextIteratorStreamer, slow.ours),
        upper(transformers.TextIteratorStreamer, slow.theirs),
    )
    assert ours == theirs
    assert "SOME " in "".join(ours)


# Iterating in a coroutine ----------------------------------------------------------------------------------------


def run(work: Awaitable[Any]) -> Any:
    async def in_time() -> Any:
        return await asyncio.wait_for(work, PATIENCE)

    return asyncio.run(in_time())


def test_pieces_arrive_in_a_coroutine(pair: Pair) -> None:
    puts = as_generated(pair.ours.encode(TEXTS["mixed"]))

    async def collect(streamer_class: Any, tokenizer: Any) -> list[list[str]]:
        streamer = streamer_class(tokenizer, timeout=PATIENCE)
        arrived = []
        for _ in range(2):
            with in_a_thread(generate, streamer, puts):
                arrived.append([piece async for piece in streamer])
        return arrived

    ours = run(collect(streamers.AsyncTextIteratorStreamer, pair.ours))
    assert ours == run(collect(transformers.AsyncTextIteratorStreamer, pair.theirs))
    assert len(ours[0]) == len(puts) + 1


def test_only_the_thread_of_the_loop_touches_its_queue(slow: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of asyncio is not for several threads: the loop might never wake."""

    async def collect() -> list[str]:
        streamer = streamers.AsyncTextIteratorStreamer(slow.ours, timeout=PATIENCE)
        put = streamer.text_queue.put_nowait
        monkeypatch.setattr(streamer.text_queue, "put_nowait", lambda item: (users.append(get_ident()), put(item)))
        with in_a_thread(generate, streamer, as_generated(slow.ours.encode("some words"))):
            return [piece async for piece in streamer]

    users: list[int] = []
    assert run(collect())
    assert set(users) == {get_ident()}


def test_an_error_reaches_the_coroutine_and_the_end_stays_the_end(slow: Pair) -> None:
    async def consume() -> None:
        streamer = streamers.AsyncTextIteratorStreamer(slow.ours, skip_prompt=True, timeout=PATIENCE)
        for error in (ValueError("no"), None):
            with in_a_thread(generate, streamer, as_generated(slow.ours.encode("some words")), error):
                if error is None:
                    assert "".join([piece async for piece in streamer]) == "some words</s>"
                else:
                    with pytest.raises(ValueError, match="no"):
                        [piece async for piece in streamer]
            for _ in range(2):
                with pytest.raises(StopAsyncIteration):
                    await streamer.__anext__()

    run(consume())


def test_no_text_in_time_in_a_coroutine(slow: Pair) -> None:
    async def wait() -> None:
        streamer = streamers.AsyncTextIteratorStreamer(slow.ours, timeout=0.01)
        with pytest.raises(TimeoutError, match=r"no text came for 0\.01 seconds"):
            await streamer.__anext__()

    run(wait())


def test_outside_of_a_coroutine(slow: Pair) -> None:
    with pytest.raises(RuntimeError, match="must be made inside a coroutine"):
        streamers.AsyncTextIteratorStreamer(slow.ours)
