"""The returned batch behaves as users know it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from quintet.tokenizers import BatchEncoding, CharSpan, TokenSpan

from .oracle import Pair, plain

WORDS = ["Hello", "wonderful", "world"]


def test_a_mapping_with_attributes(t5: Pair) -> None:
    batch = t5.ours(["Hello", "Hello world"])
    assert isinstance(batch, Mapping)
    assert batch.input_ids is batch["input_ids"]
    assert list(batch) == list(batch.keys()) == ["input_ids", "attention_mask"]
    assert dict(**batch) == dict(batch.items())
    assert "labels" not in batch
    batch["labels"] = [1]
    assert batch.pop("labels") == [1]
    assert not hasattr(batch, "labels")
    with pytest.raises(AttributeError, match="no 'nothing'"):
        batch.nothing
    with pytest.raises(KeyError):
        batch["nothing"]


def test_indexing(slow: Pair, fast: Pair) -> None:
    assert fast.ours(["a", "b"])[1].ids == [3, 115, 1]
    assert [encoding.ids for encoding in fast.ours(["a", "b"])[0:2]] == [[3, 9, 1], [3, 115, 1]]
    batch = slow.ours(["a", "b"])
    assert batch[0:1] == {"input_ids": [[3, 9, 1]], "attention_mask": [[1, 1, 1]]}
    with pytest.raises(KeyError, match="keys are strings"):
        batch[0]


def test_words_characters_tokens(fast: Pair) -> None:
    text, second = "Hello wonderful world", "the second"
    theirs, ours = (tokenizer([text, "a"], [second, "b"]) for tokenizer in fast)
    assert ours.is_fast
    assert ours.n_sequences == theirs.n_sequences == 2
    assert len(ours.encodings) == 2
    for i in range(2):
        assert ours.tokens(i) == theirs.tokens(i)
        assert ours.word_ids(i) == theirs.word_ids(i)
        assert ours.sequence_ids(i) == theirs.sequence_ids(i)
    for token in range(len(ours.tokens(0))):
        for name in ("token_to_chars", "token_to_word", "token_to_sequence"):
            expected = getattr(theirs, name)(0, token)
            assert getattr(ours, name)(0, token) == getattr(ours, name)(token) == expected
    for char in range(len(text)):
        assert ours.char_to_token(char) == theirs.char_to_token(char)
        assert ours.char_to_word(0, char) == theirs.char_to_word(0, char)
    for char in range(len(second)):
        assert ours.char_to_token(0, char, 1) == theirs.char_to_token(0, char, 1)
        assert ours.char_to_token(char, sequence_index=1) == theirs.char_to_token(char, sequence_index=1)
    theirs, ours = (tokenizer(WORDS, is_split_into_words=True) for tokenizer in fast)
    for word in range(3):
        assert ours.word_to_tokens(word) == theirs.word_to_tokens(word)
        assert ours.word_to_chars(0, word) == theirs.word_to_chars(0, word)
    assert isinstance(ours.word_to_tokens(1), TokenSpan)
    assert isinstance(ours.token_to_chars(0), CharSpan)
    assert ours.token_to_chars(-1) is None  # the closing token stands for no characters
    assert ours.token_to_chars(-2) == ours.token_to_chars(len(ours.tokens()) - 2)


@pytest.mark.parametrize(
    ("method", "index"),
    [("tokens", ()), ("word_ids", ()), ("sequence_ids", ()), ("token_to_chars", (0,)), ("char_to_token", (0, 1))],
)
def test_what_needs_a_fast_tokenizer(method: str, index: tuple, slow: Pair) -> None:
    batch = slow.ours("Hello")
    assert batch.encodings is None
    assert not batch.is_fast
    with pytest.raises(ValueError, match=rf"{method}\(\) needs the result of a fast tokenizer"):
        getattr(batch, method)(*index)


@pytest.mark.parametrize("tensor_type", ["pt", "np"])
def test_tensors(tensor_type: str, t5: Pair) -> None:
    texts = ["Hello", "Hello wonderful world"]
    ours = t5.ours(texts, padding=True)
    assert ours.convert_to_tensors(tensor_type) is ours
    assert plain(ours) == plain(t5.theirs(texts, padding=True, return_tensors=tensor_type))
    kind = torch.Tensor if tensor_type == "pt" else np.ndarray
    assert all(isinstance(value, kind) for value in ours.values())
    assert plain(ours.convert_to_tensors(tensor_type)) == plain(ours)
    one = BatchEncoding({"input_ids": [1, 2]}, tensor_type=tensor_type, prepend_batch_axis=True)
    assert one.input_ids.shape == (1, 2)


def test_values_other_than_ids() -> None:
    arrays = [np.array([0.5, 1.5], np.float32)] * 2
    values = {"a": [[0.5]], "b": [True, False], "c": arrays, "d": [[(0, 1), (1, 2)]], "e": []}
    batch = BatchEncoding(values, tensor_type="pt")
    kinds = [batch[key].dtype for key in values]
    assert kinds == [torch.float32, torch.bool, torch.float32, torch.int64, torch.int64]
    assert batch["d"].shape == (1, 2, 2)


def test_moving(t5: Pair, caplog: pytest.LogCaptureFixture) -> None:
    batch = t5.ours(["Hello"], return_tensors="pt")
    batch["text"] = "Hello"
    assert batch.to("cpu") is batch
    for device in ("meta", torch.device("meta")):
        moved = t5.ours(["Hello"], return_tensors="pt").to(device)
        assert moved.input_ids.device.type == "meta"
    assert batch.to(torch.float16).input_ids.dtype == torch.int64
    assert "moves to a device" in caplog.text


def test_copies(t5: Pair) -> None:
    batch = t5.ours(["Hello", "world"])
    for again in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), copy.copy(batch)):
        assert dict(again) == dict(batch)
        assert again.is_fast == batch.is_fast
        assert again.n_sequences == batch.n_sequences
        if again.is_fast:
            assert again.tokens(1) == batch.tokens(1)


def test_rows_of_unequal_length(t5: Pair) -> None:
    with pytest.raises(ValueError, match=r"'input_ids' cannot become one tensor.*padding=True"):
        t5.ours(["a", "a b c"], return_tensors="pt")
    rows = t5.ours(["a", "a b c"], return_tensors="np")["input_ids"]  # as in the reference
    assert rows.dtype == object
