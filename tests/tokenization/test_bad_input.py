"""What cannot be done is refused early, by an error that says what is wrong and what is allowed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quintet.tokenizers import AddedToken, ByT5Tokenizer, T5Tokenizer, T5TokenizerFast

from .oracle import Pair

BOTH = [T5Tokenizer, T5TokenizerFast]


@pytest.fixture
def folder(t5_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(t5_folder / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("tokenizer_class", BOTH)
def test_missing_vocabulary(tokenizer_class: Any, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no SentencePiece model .*nothing\.model"):
        tokenizer_class(str(folder / "nothing.model"))
    (folder / "spiece.model").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(OSError, match=r"does not hold .*spiece\.model"):
        tokenizer_class.from_pretrained(folder)


def test_nothing_to_build_from() -> None:
    with pytest.raises(ValueError, match=r"needs a vocab_file .* or a tokenizer_file"):
        T5TokenizerFast()
    with pytest.raises(FileNotFoundError, match="no tokenizer file"):
        T5TokenizerFast(tokenizer_file="nothing.json")


@pytest.mark.parametrize("tokenizer_class", BOTH)
@pytest.mark.parametrize("damage", [b"", b"no model at all", b"\x0a\xff\xff\xff\x7f", b"\x0b", b"\x80" * 20])
def test_damaged_vocabulary(tokenizer_class: Any, damage: bytes, folder: Path) -> None:
    (folder / "spiece.model").write_bytes(damage)
    with pytest.raises(OSError, match=r"spiece\.model is not a SentencePiece model"):
        tokenizer_class.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "None"}}'])
def test_invalid_tokenizer_file(content: str, folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a valid tokenizer\.json"):
        T5TokenizerFast(tokenizer_file=file)


@pytest.mark.parametrize("tokenizer_class", BOTH)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"extra_ids": 100,', r"tokenizer_config\.json is not valid JSON"),
        ("[1]", "must hold a JSON object, not a list"),
        ('{"added_tokens_decoder": {"0": "<pad>"}}', "not the description of an added token: '<pad>'"),
        ('{"added_tokens_decoder": {"0": {"content": 5}}}', "not the description of an added token"),
        ('{"padding_side": "top"}', r"padding_side='top' is not known. Allowed: 'right', 'left'"),
    ],
)
def test_invalid_configuration(tokenizer_class: Any, content: str, message: str, folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        tokenizer_class.from_pretrained(folder)


TOKEN = r"must be a token \(a text, or the description of an added token\), or null"
WRONG_VALUES = [
    ("added_tokens_decoder", None, "must be a dictionary of ids and their tokens"),
    ("added_tokens_decoder", {"-1": {"content": "a"}}, "must be a dictionary of ids and their tokens"),
    ("additional_special_tokens", -1, "must be a list of tokens, or null"),
    ("additional_special_tokens", ["a", 1], "must be a list of tokens, or null"),
    ("eos_token", [], TOKEN),
    ("pad_token", {"content": 5}, TOKEN),
    ("extra_ids", None, "must be an integer of at least 0"),
    ("extra_ids", -1, "must be an integer of at least 0"),
    ("extra_ids", True, "must be an integer of at least 0"),
    ("extra_special_tokens", -1, "must be a dictionary of names and their tokens, or null"),
    ("extra_special_tokens", {"image_token": 1}, "must be a dictionary of names and their tokens, or null"),
    ("init_inputs", None, "must be a list"),
    ("model_input_names", [], "must be a list of names, at least one"),
    ("model_input_names", [5], "must be a list of names, at least one"),
    ("sp_model_kwargs", [1], "must be a dictionary, or null"),
    ("split_special_tokens", "no", "must be true or false"),
    ("tokenizer_class", 5, "must be the name of a class, or null"),
]


@pytest.mark.parametrize("tokenizer_class", [*BOTH, ByT5Tokenizer])
@pytest.mark.parametrize(("key", "value", "allowed"), WRONG_VALUES)
def test_a_wrong_value_in_a_file_is_named(
    tokenizer_class: Any, key: str, value: Any, allowed: str, folder: Path
) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(ValueError, match=rf"^tokenizer_config\.json: {key} {allowed}, got "):
        tokenizer_class.from_pretrained(folder)


@pytest.mark.parametrize("tokenizer_class", BOTH)
@pytest.mark.parametrize(
    ("filename", "content", "message"),
    [
        ("special_tokens_map.json", {"eos_token": -1}, f"eos_token {TOKEN}"),
        ("special_tokens_map.json", {"additional_special_tokens": [1]}, "additional_special_tokens must be a list"),
        ("added_tokens.json", {"new": None}, "the id of 'new' must be an integer of at least 0, got None"),
        ("added_tokens.json", {"new": []}, r"the id of 'new' must be an integer of at least 0, got \[\]"),
    ],
)
def test_a_wrong_value_in_an_older_file_is_named(
    tokenizer_class: Any, filename: str, content: dict[str, Any], message: str, folder: Path
) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / filename).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"^{filename}: {message}"):
        tokenizer_class.from_pretrained(folder)


@pytest.mark.parametrize("tokenizer_class", BOTH)
def test_sentinels_that_do_not_add_up(tokenizer_class: Any, t5_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"extra_ids=100, but additional_special_tokens lists 1 sentinels"):
        tokenizer_class(str(t5_folder / "spiece.model"), additional_special_tokens=["<extra_id_0>"])
    with pytest.raises(ValueError, match=r"extra_ids=125, but .* lists 0 sentinels"):
        ByT5Tokenizer(additional_special_tokens=["<new>"])


@pytest.mark.parametrize("text", [5, None, 1.5, b"bytes", [5], [None], {"a": 1}, [[5]]], ids=repr)
def test_not_text(text: Any, t5: Pair) -> None:
    with pytest.raises(ValueError, match=r"must be a str|must be given"):
        t5.ours(text)
    if text is not None:
        with pytest.raises(ValueError, match="text_target must be a str"):
            t5.ours(text_target=text)
        with pytest.raises(ValueError, match="text's pair must be a str"):
            t5.ours("a", text)


@pytest.mark.parametrize("batch", [["a", 5], ["a", None], ["a", b"b"], [("a", "b"), ("a", 5)]], ids=repr)
def test_not_text_further_on(batch: list[Any], t5: Pair) -> None:
    with pytest.raises(ValueError, match="must be a str"):
        t5.ours(batch)


def test_batches_that_do_not_fit(t5: Pair) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        t5.ours([])
    with pytest.raises(ValueError, match="a batch of 2 texts needs as many pairs, got 1"):
        t5.ours(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="got one str"):
        t5.ours(["a", "b"], "cc")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("padding", "longer", "'longest', 'max_length', 'do_not_pad'"),
        ("padding", None, "'longest', 'max_length', 'do_not_pad'"),
        ("truncation", "shortest", "'longest_first', 'only_first', 'only_second', 'do_not_truncate'"),
        ("return_tensors", "tf", "'pt', 'np'"),
        ("return_tensors", "jax", "'pt', 'np'"),
        ("return_tensors", True, "'pt', 'np'"),
        ("padding_side", "top", "'right', 'left'"),
    ],
)
def test_unknown_values(option: str, value: Any, allowed: str, t5: Pair) -> None:
    with pytest.raises(ValueError, match=rf"{option}={value!r} is not known. Allowed: {allowed}"):
        t5.ours("a", **{option: value})


@pytest.mark.parametrize("tokenizer_class", BOTH)
def test_padding_without_a_token(tokenizer_class: Any, t5_folder: Path) -> None:
    tokenizer = tokenizer_class.from_pretrained(t5_folder)
    tokenizer.pad_token = None
    for call in (lambda: tokenizer(["a", "b c"], padding=True), lambda: tokenizer.pad({"input_ids": [[1], [1, 2]]})):
        with pytest.raises(ValueError, match=r"has none: set tokenizer\.pad_token"):
            call()
    assert tokenizer("a", padding=False)["input_ids"] == [3, 9, 1]


def test_no_room_for_special_tokens(t5: Pair) -> None:
    for arguments, options in ((("a",), {"max_length": 0}), (("a", "b"), {"max_length": 1})):
        with pytest.raises(ValueError, match="leaves no room"):
            t5.ours(*arguments, truncation=True, **options)
    assert t5.ours("Hello world", truncation=True, max_length=1)["input_ids"] == [1]


def test_lengths_that_disagree(t5: Pair) -> None:
    with pytest.raises(ValueError, match="max_length=7 is not a multiple of pad_to_multiple_of=4"):
        t5.ours("a", padding="max_length", truncation=True, max_length=7, pad_to_multiple_of=4)


def test_unknown_arguments(slow: Pair, fast: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """As in the reference: Python tokenizers ignore them and say so in the log, fast ones refuse them."""
    assert slow.ours("a", paddingg=True)["input_ids"] == [3, 9, 1]
    assert slow.ours.tokenize("a", paddingg=True) == ["▁", "a"]
    assert "ignores: paddingg" in caplog.text
    with pytest.raises(TypeError, match="does not know these arguments: paddingg"):
        fast.ours("a", paddingg=True)


def test_offsets_need_a_fast_tokenizer(slow: Pair) -> None:
    with pytest.raises(NotImplementedError, match="return_offsets_mapping needs a fast tokenizer"):
        slow.ours("a", return_offsets_mapping=True)


def test_combinations_without_a_meaning(slow: Pair) -> None:
    with pytest.raises(ValueError, match="'longest_first' has none"):
        slow.ours("a b", "c d", truncation=True, max_length=3, return_overflowing_tokens=True)
    with pytest.raises(ValueError, match="needs add_special_tokens=True"):
        slow.ours("a", return_token_type_ids=True, add_special_tokens=False)
    with pytest.raises(ValueError, match="a pair must have two texts, got 3"):
        slow.ours.batch_encode_plus([("a", "b", "c")])
    with pytest.raises(ValueError, match="give no second one"):
        slow.ours.get_special_tokens_mask([1], [1], already_has_special_tokens=True)


def test_tokens_that_cannot_be_added(t5: Pair) -> None:
    with pytest.raises(TypeError, match="a token must be a str or an AddedToken, got int: 5"):
        t5.ours.add_tokens(["a", 5])
    with pytest.raises(ValueError, match=r"'end_token' is not the name of a special token. Allowed: bos_token"):
        t5.ours.add_special_tokens({"end_token": "<end>"})
    with pytest.raises(TypeError, match="must be a list of tokens, got str"):
        t5.ours.add_special_tokens({"additional_special_tokens": "<new>"})
    with pytest.raises(TypeError, match="must be a list of tokens, got AddedToken"):
        t5.ours.additional_special_tokens = AddedToken("<new>")


def test_ids_outside_the_vocabulary(slow: Pair, fast: Pair) -> None:
    for token_id in (32100, -100):
        with pytest.raises(IndexError, match=f"token id {token_id} is outside the vocabulary"):
            slow.ours.decode([token_id])
    with pytest.raises(IndexError, match="outside the vocabulary: ids go from 0 to 383"):
        ByT5Tokenizer().decode([384])
    assert fast.ours.decode([8774, 32110]) == "Hello"  # the model's vocabulary is larger than the tokenizer's
    with pytest.raises(OverflowError, match="put the padding id in place of -100"):
        fast.ours.decode([-100])


@pytest.mark.parametrize("tokenizer_class", BOTH)
def test_arguments_that_are_methods(tokenizer_class: Any, t5_folder: Path) -> None:
    with pytest.raises(AttributeError, match="'encode' is a method"):
        tokenizer_class(str(t5_folder / "spiece.model"), encode=1)
    with pytest.raises(TypeError, match="eos_token must be a str"):
        tokenizer_class(str(t5_folder / "spiece.model"), eos_token=5)


def test_saving(slow: Pair, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        slow.ours.save_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="only a fast tokenizer has"):
        slow.ours.save_pretrained(tmp_path / "new", legacy_format=False)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="push_to_hub is not supported"):
        slow.ours.save_pretrained(tmp_path, push_to_hub=True)


def test_saving_a_vocabulary_that_is_not_there(t5_folder: Path, tmp_path: Path) -> None:
    tokenizer = T5TokenizerFast(tokenizer_file=t5_folder / "tokenizer.json")
    assert not tokenizer.can_save_slow_tokenizer
    with pytest.raises(ValueError, match=r"without spiece\.model"):
        tokenizer.save_vocabulary(tmp_path)
    assert [Path(name).name for name in tokenizer.save_pretrained(tmp_path)][-1] == "tokenizer.json"
