"""Where the reference is plainly wrong, and what we do instead. Each test shows both."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import transformers

from quintet.tokenizers import AddedToken, T5Tokenizer, T5TokenizerFast

from .oracle import Pair, byt5_pair, load_pair, quietly


def test_fast_tokenizer_made_from_a_model_file_keeps_the_first_word_start(t5_folder: Path) -> None:
    """The reference takes an add_prefix_space that is not given for False, against its own T5Tokenizer."""
    file = str(t5_folder / "spiece.model")
    assert quietly(transformers.T5TokenizerFast, file).tokenize("Hello") == ["H", "ello"]
    assert T5TokenizerFast(file).tokenize("Hello") == T5Tokenizer(file).tokenize("Hello") == ["▁Hello"]


def test_sentinels_keep_their_ids_beside_other_special_tokens(t5_folder: Path) -> None:
    """A model knows <extra_id_0> as 32099; the reference's T5Tokenizer shifts it."""
    file = str(t5_folder / "spiece.model")
    theirs = quietly(transformers.T5Tokenizer, file, additional_special_tokens=["<new>"])
    assert theirs.convert_tokens_to_ids(["<extra_id_0>", "<new>"]) == [32001, 32000]
    for tokenizer_class in (T5Tokenizer, T5TokenizerFast):
        given = ["<new>"]
        ours = tokenizer_class(file, additional_special_tokens=given)
        assert ours.convert_tokens_to_ids(["<extra_id_0>", "<new>"]) == [32099, 32100]
        assert given == ["<new>"]  # the reference appends to the caller's list


def test_unpickled_tokenizer_reads_texts_as_before(t5_folder: Path) -> None:
    """Unpickled, the reference's is half legacy, and needs the file to be where it was."""
    pair = load_pair("T5Tokenizer", t5_folder, legacy=False)
    text = "Hey <extra_id_0>."
    assert pickle.loads(pickle.dumps(pair.theirs)).encode(text) != pair.theirs.encode(text)
    assert pickle.loads(pickle.dumps(pair.ours)).encode(text) == pair.ours.encode(text) == pair.theirs.encode(text)


def test_closing_token_in_the_text(slow: Pair) -> None:
    """It is not added twice, and the masks are as long as the ids; the reference's are longer, and it warns."""
    options = {"return_special_tokens_mask": True, "return_token_type_ids": True}
    theirs, ours = quietly(slow.theirs, "Hello</s>", **options), slow.ours("Hello</s>", **options)
    assert ours["input_ids"] == theirs["input_ids"] == [8774, 1]
    assert theirs["special_tokens_mask"] == [0, 0, 1]
    assert ours["special_tokens_mask"] == [0, 1]
    assert ours["token_type_ids"] == [0, 0]


def test_truncation_that_cannot_be_done(slow: Pair) -> None:
    """The reference logs an error and returns all tokens; its fast tokenizer raises plain Exception, or cuts none."""
    cases = [(("a b c",), {"truncation": "only_second", "max_length": 2}, "needs a second text")]
    cases += [(("a", "b c d e f"), {"truncation": "only_first", "max_length": 4}, "would have to remove")]
    cases += [(("a", "b"), {"truncation": True, "max_length": 1}, "leaves no room")]
    for arguments, options, message in cases:
        assert len(quietly(slow.theirs, *arguments, **options)["input_ids"]) > options["max_length"]
        with pytest.raises(ValueError, match=message):
            slow.ours(*arguments, **options)
    assert len(quietly(slow.theirs, "a b c", truncation=True, max_length=1)["input_ids"]) > 1
    assert slow.ours("a b c", truncation=True, max_length=1)["input_ids"] == [1]


def test_stride_that_is_longer_than_what_is_left(fast: Pair) -> None:
    """The backend panics, which `except Exception` does not catch."""
    arguments = ("one two three four five", "six seven eight nine ten")
    options = {"truncation": "only_first", "max_length": 9, "stride": 3}
    with pytest.raises(BaseException, match="stride") as caught:
        fast.theirs(*arguments, **options)
    assert not isinstance(caught.value, Exception)
    with pytest.raises(ValueError, match="stride=3"):
        fast.ours(*arguments, **options)


def test_a_row_without_tokens_loses_nothing(t5: Pair) -> None:
    """torch.tensor([[], [1]]) has no 1 in it."""
    options = {"add_special_tokens": False, "return_tensors": "pt"}
    assert quietly(t5.theirs, ["", "a"], **options)["input_ids"].shape == (2, 0)
    with pytest.raises(ValueError, match="cannot become one tensor"):
        t5.ours(["", "a"], **options)


def test_no_tokens_are_integers_still(t5: Pair) -> None:
    """An embedding takes no floats."""
    options = {"add_special_tokens": False, "return_tensors": "pt"}
    assert quietly(t5.theirs, [""], **options)["input_ids"].dtype == torch.float32
    assert t5.ours([""], **options)["input_ids"].dtype == torch.int64


def test_padding_nothing(slow: Pair) -> None:
    options = {"add_special_tokens": False, "padding": "max_length", "max_length": 3}
    assert slow.theirs("", **options)["input_ids"] == []
    assert slow.ours("", **options) == {"input_ids": [0, 0, 0], "attention_mask": [0, 0, 0]}


def test_overflowing_tokens_without_a_limit(slow: Pair) -> None:
    with pytest.raises(TypeError):
        slow.theirs("a", return_overflowing_tokens=True)
    ours = slow.ours("a", return_overflowing_tokens=True)
    assert (ours["overflowing_tokens"], ours["num_truncated_tokens"]) == ([], 0)


def test_split_special_tokens_in_a_batch(slow: Pair) -> None:
    """The reference heeds it for a single text only."""
    texts = ["<pad>"]
    assert slow.theirs(texts, split_special_tokens=True)["input_ids"] == [[0, 1]]
    assert slow.ours(texts, split_special_tokens=True)["input_ids"] == [
        slow.ours.encode("<pad>", split_special_tokens=True)
    ]
    assert slow.ours.encode("<pad>", split_special_tokens=True) == slow.theirs.encode(
        "<pad>", split_special_tokens=True
    )


def test_words_of_an_empty_text(slow: Pair) -> None:
    with pytest.raises(ValueError, match="not valid"):
        slow.theirs([["a"], []], ["a", "b"], is_split_into_words=True)
    assert slow.ours([["a"], []], is_split_into_words=True)["input_ids"] == [[3, 9, 1], [1]]


def test_tokens_of_the_caller_are_not_changed(slow: Pair) -> None:
    theirs, ours = ["▁a", "b"], ["▁a", "b"]
    assert slow.ours.convert_tokens_to_string(ours) == slow.theirs.convert_tokens_to_string(theirs)
    assert theirs == ["a", "b"]
    assert ours == ["▁a", "b"]
    assert slow.ours.convert_tokens_to_string([]) == ""


def test_added_tokens_that_overlap(slow: Pair) -> None:
    """The reference takes "abcXd" for the token "abcd" once "bc" is a token too, and so finds neither."""
    pair = Pair(copy.deepcopy(slow.theirs), copy.deepcopy(slow.ours))
    for tokenizer in pair:
        tokenizer.add_tokens([AddedToken("abcd"), AddedToken("bc")])
    assert "bc" not in pair.theirs.tokenize("abcXd")
    assert pair.ours.tokenize("abcXd")[:3] == ["▁", "a", "bc"]


def test_byt5_tokens_that_are_no_bytes() -> None:
    """The reference has no id, or one beyond the vocabulary, for what is unknown."""
    pair = byt5_pair()
    assert pair.theirs.convert_tokens_to_ids(["word", "€"]) == [None, ord("€") + 3]
    assert pair.ours.convert_tokens_to_ids(["word", "€"]) == [2, 2]


def test_sampling_outside_legacy(t5_folder: Path) -> None:
    """The reference takes away as many pieces as the unknown token has, but sampling splits that into more or fewer."""
    sampling = {"enable_sampling": True, "alpha": 0.1, "nbest_size": -1}
    arguments = {"legacy": False, "sp_model_kwargs": sampling}
    ours = T5Tokenizer.from_pretrained(t5_folder, **arguments)
    assert {ours.convert_tokens_to_string(ours.tokenize("The house is wonderful")) for _ in range(50)} == {
        "The house is wonderful"
    }
    theirs = transformers.T5Tokenizer.from_pretrained(t5_folder, **arguments)
    texts = {theirs.convert_tokens_to_string(theirs.tokenize("The house is wonderful")) for _ in range(200)}
    assert texts != {"The house is wonderful"}
