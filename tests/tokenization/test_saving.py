"""What we save loads in the reference and the reverse, and says the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import quintet.tokenizers
from quintet.tokenizers import AddedToken, ByT5Tokenizer, T5Tokenizer, T5TokenizerFast

from .oracle import Pair, byt5_pair, load_pair, odd_texts, quietly

TEXTS = [*odd_texts(100, seed=11), "a <new> b", "anew new"]


def contents(folder: Path) -> dict[str, Any]:
    """Files by name: JSON as values, others as bytes."""
    return {
        path.name: json.loads(path.read_text("utf-8")) if path.suffix == ".json" else path.read_bytes()
        for path in sorted(folder.iterdir())
    }


def assert_same_tokenizers(one: Any, other: Any) -> None:
    for text in TEXTS:
        assert quietly(one.encode, text) == quietly(other.encode, text), text
    assert one.special_tokens_map == other.special_tokens_map
    assert {i: repr(t) for i, t in one.added_tokens_decoder.items()} == {
        i: repr(t) for i, t in other.added_tokens_decoder.items()
    }
    for name in ("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces"):
        assert getattr(one, name) == getattr(other, name)


def changed(pair: Pair) -> Pair:
    theirs, ours = copy.deepcopy(pair.theirs), copy.deepcopy(pair.ours)
    for tokenizer in (theirs, ours):
        tokenizer.add_tokens(["<new>", AddedToken("new", single_word=True)])
        tokenizer.add_special_tokens({"sep_token": "<sep>", "cls_token": AddedToken("<cls>", lstrip=True)})
        tokenizer.model_max_length = 99
    return Pair(theirs, ours)


@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast", "ByT5Tokenizer"])
def test_there_and_back(name: str, change: bool, t5_folder: Path, tmp_path: Path) -> None:
    pair = byt5_pair() if name == "ByT5Tokenizer" else load_pair(name, t5_folder)
    theirs, ours = changed(pair) if change else pair
    if ours.is_fast:
        theirs.backend_tokenizer.no_padding()  # what is left of its last call would be saved
        theirs.backend_tokenizer.no_truncation()
    quietly(theirs.save_pretrained, tmp_path / "theirs")
    names = ours.save_pretrained(tmp_path / "ours")
    assert sorted(names) == sorted(str(path) for path in (tmp_path / "ours").iterdir())
    written, expected = contents(tmp_path / "ours"), contents(tmp_path / "theirs")
    for config in (written["tokenizer_config.json"], expected["tokenizer_config.json"]):
        config.pop("special_tokens_map_file", None)
    assert written == expected
    ours_class, their_class = getattr(quintet.tokenizers, name), getattr(transformers, name)
    for folder in ("ours", "theirs"):
        assert_same_tokenizers(ours, ours_class.from_pretrained(tmp_path / folder))
    assert_same_tokenizers(ours, quietly(their_class.from_pretrained, tmp_path / "ours"))


def test_auto_tokenizer_of_the_reference(fast: Pair, tmp_path: Path) -> None:
    fast.ours.save_pretrained(tmp_path)
    assert_same_tokenizers(fast.ours, quietly(transformers.AutoTokenizer.from_pretrained, tmp_path))


@pytest.mark.parametrize("vocabulary", ["mt5", "umt5"])
def test_other_vocabularies(vocabulary: str, vocabularies: Path, tmp_path: Path) -> None:
    ours = load_pair("T5TokenizerFast", vocabularies / vocabulary).ours
    ours.save_pretrained(tmp_path)
    assert_same_tokenizers(ours, quietly(transformers.T5TokenizerFast.from_pretrained, tmp_path))


def test_from_fast_to_python_and_back(fast: Pair, slow: Pair, tmp_path: Path) -> None:
    fast.ours.save_pretrained(tmp_path / "fast")
    assert_same_tokenizers(slow.ours, T5Tokenizer.from_pretrained(tmp_path / "fast"))
    slow.ours.save_pretrained(tmp_path / "slow")
    assert_same_tokenizers(fast.ours, T5TokenizerFast.from_pretrained(tmp_path / "slow"))


def test_formats(fast: Pair, tmp_path: Path) -> None:
    fast.ours.save_pretrained(tmp_path / "legacy", legacy_format=True)
    assert not (tmp_path / "legacy" / "tokenizer.json").exists()
    fast.ours.save_pretrained(tmp_path / "unified", legacy_format=False, filename_prefix=None)
    assert not (tmp_path / "unified" / "spiece.model").exists()
    # The configuration asks for a prefix space, for which the reference needs spiece.model, and fails.
    assert_same_tokenizers(fast.ours, T5TokenizerFast.from_pretrained(tmp_path / "unified"))
    prefixed = fast.ours.save_pretrained(tmp_path / "prefixed", filename_prefix="my")
    assert all(Path(name).name.startswith("my-") for name in prefixed)
    assert len(prefixed) == 4


def test_older_files(t5_folder: Path, tmp_path: Path) -> None:
    """Without `added_tokens_decoder`, added tokens come from the three other files."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    (tmp_path / "spiece.model").write_bytes((t5_folder / "spiece.model").read_bytes())
    tokens = {
        "eos_token": {"content": "</s>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}
    }
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({**tokens, "pad_token": "<pad>", "cls_token": "<cls>"})
    )
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<cls>": 32100, "<new>": 32101}))
    theirs = quietly(transformers.T5Tokenizer.from_pretrained, tmp_path)
    ours = T5Tokenizer.from_pretrained(tmp_path)
    assert_same_tokenizers(ours, theirs)
    assert ours.cls_token_id == 32100
    assert ours.convert_tokens_to_ids("<new>") == 32101
    assert_same_tokenizers(*load_pair("T5Tokenizer", tmp_path, eos_token="<new>", cls_token="<pad>"))
    (tmp_path / "tokenizer.json").write_bytes((t5_folder / "tokenizer.json").read_bytes())
    for name in ("T5Tokenizer", "T5TokenizerFast"):
        assert_same_tokenizers(*load_pair(name, tmp_path))


def test_arguments_take_precedence(t5_folder: Path) -> None:
    arguments = {"model_max_length": 7, "padding_side": "left", "pad_token": "</s>", "cls_token": "<cls>"}
    for name in ("T5Tokenizer", "T5TokenizerFast"):
        assert_same_tokenizers(*load_pair(name, t5_folder, **arguments))


def test_single_files(t5_folder: Path) -> None:
    assert T5Tokenizer.from_pretrained(t5_folder / "spiece.model").encode("Hello") == [8774, 1]
    assert T5TokenizerFast.from_pretrained(t5_folder / "spiece.model").encode("Hello") == [8774, 1]
    assert T5TokenizerFast.from_pretrained(t5_folder / "tokenizer.json").encode("Hello") == [8774, 1]


def test_settings_in_a_tokenizer_file(fast: Pair, tmp_path: Path) -> None:
    """Sides are taken over as the reference does; padding and truncation themselves belong to calls."""
    backend = copy.deepcopy(fast.ours.backend_tokenizer)
    backend.enable_padding(direction="left", length=5, pad_id=0, pad_token="<pad>")
    backend.enable_truncation(3, direction="left")
    file = str(tmp_path / "tokenizer.json")
    backend.save(file)
    theirs, ours = transformers.T5TokenizerFast(tokenizer_file=file), T5TokenizerFast(tokenizer_file=file)
    assert ours.padding_side == theirs.padding_side == "left"
    assert ours.truncation_side == theirs.truncation_side == "left"
    assert ours("Hello big world") == theirs("Hello big world")
    assert T5TokenizerFast(tokenizer_file=file, padding_side="right").padding_side == "right"


def test_calls_leave_no_trace_in_files(fast: Pair, tmp_path: Path) -> None:
    """The reference saves the padding and truncation of its last call, and loads their sides."""
    fast.ours(["a"], padding="max_length", truncation=True, max_length=7, padding_side="left")
    fast.ours.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["padding"] is saved["truncation"] is None


def test_vocabulary_file_may_be_gone(t5_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "from" / "spiece.model"
    copied.parent.mkdir()
    copied.write_bytes((t5_folder / "spiece.model").read_bytes())
    ours = T5Tokenizer(str(copied), legacy=False)
    copied.unlink()
    (path,) = ours.save_vocabulary(tmp_path)
    assert Path(path).read_bytes() == (t5_folder / "spiece.model").read_bytes()


def test_saving_where_it_was_loaded_from(slow: Pair, tmp_path: Path) -> None:
    slow.ours.save_pretrained(tmp_path)
    ours = T5Tokenizer.from_pretrained(tmp_path)
    ours.add_tokens("<new>")
    ours.save_pretrained(tmp_path)
    assert len(T5Tokenizer.from_pretrained(tmp_path)) == 32101


@pytest.mark.parametrize("tokenizer_class", [T5Tokenizer, T5TokenizerFast])
def test_an_interrupted_save_leaves_the_old_files(
    tokenizer_class: Any, t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tokenizer_class.from_pretrained(t5_folder)
    ours.save_pretrained(tmp_path)
    before = contents(tmp_path)
    ours.add_tokens("<new>")

    def full_disk(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        ours.save_pretrained(tmp_path)
    assert contents(tmp_path) == before


def test_byt5_needs_no_files(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path / "byt5")
    assert not list((tmp_path / "byt5").glob("*.model"))
    (tmp_path / "empty").mkdir()
    assert ByT5Tokenizer.from_pretrained(tmp_path / "empty").encode("é") == [198, 172, 1]
