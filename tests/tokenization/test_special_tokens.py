"""Special and added tokens: their names, how they are added, how texts with them are read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from quintet.tokenizers import AddedToken, T5Tokenizer, T5TokenizerFast

from .oracle import Pair, byt5_pair, load_pair, quietly

NAMES = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
TEXTS = [
    "a<new>b", "a <new> b", "  <new>  ", "<new><new>", "the <new>. word", "renewed new", "x<new> <extra_id_0> y</s>",
    "NEWnew<NEW>", "new", "new new", "anew", "new.",
]  # fmt: skip


@pytest.fixture
def both(t5: Pair) -> Pair:
    """Copies, for tests that change tokenizers."""
    return Pair(copy.deepcopy(t5.theirs), copy.deepcopy(t5.ours))


def assert_same_tokens(theirs: Any, ours: Any) -> None:
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert {i: repr(token) for i, token in ours.added_tokens_decoder.items()} == {
        i: repr(token) for i, token in theirs.added_tokens_decoder.items()
    }
    assert ours.added_tokens_encoder == theirs.added_tokens_encoder
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert repr(ours.special_tokens_map_extended) == repr(theirs.special_tokens_map_extended)
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.additional_special_tokens_ids == theirs.additional_special_tokens_ids
    for name in NAMES:
        for attribute in (f"{name}_token", f"{name}_token_id"):
            assert getattr(ours, attribute) == quietly(getattr, theirs, attribute)


@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast"])
@pytest.mark.parametrize("vocabulary", ["t5", "mt5", "umt5"])
def test_as_loaded(name: str, vocabulary: str, vocabularies: Path) -> None:
    pair = load_pair(name, vocabularies / vocabulary)
    assert_same_tokens(*pair)
    for attribute in ("vocab_size", "model_max_length", "padding_side", "truncation_side", "model_input_names",
                      "is_fast", "name_or_path", "clean_up_tokenization_spaces", "max_len_single_sentence",
                      "max_len_sentences_pair", "pad_token_type_id"):  # fmt: skip
        assert getattr(pair.ours, attribute) == getattr(pair.theirs, attribute), attribute
    assert pair.ours.num_special_tokens_to_add() == 1
    assert pair.ours.num_special_tokens_to_add(pair=True) == 2
    assert repr(pair.ours).split("special_tokens=")[0] == repr(pair.theirs).split("special_tokens=")[0]


def test_byt5_as_made() -> None:
    assert_same_tokens(*byt5_pair())
    assert byt5_pair().ours.get_sentinel_token_ids() == list(range(259, 384))


@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"extra_ids": 3},
        {"extra_ids": 0},
        {"extra_ids": 2, "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>", "<new>"]},
        {"eos_token": AddedToken("</s>", lstrip=True), "add_prefix_space": True},
        {"bos_token": "<bos>", "extra_ids": 1},
        {"model_max_length": 7, "padding_side": "left", "truncation_side": "left", "unknown": 5},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_as_made(name: str, arguments: dict[str, Any], t5_folder: Path) -> None:
    import transformers

    file = str(t5_folder / "spiece.model")
    theirs = quietly(getattr(transformers, name), file, **{"add_prefix_space": True, **arguments})
    ours = {"T5Tokenizer": T5Tokenizer, "T5TokenizerFast": T5TokenizerFast}[name](file, **arguments)
    assert_same_tokens(theirs, ours)
    assert ours.init_kwargs.get("unknown") == arguments.get("unknown")
    assert ours("a b <extra_id_0>") == theirs("a b <extra_id_0>")


TOKENS: dict[str, list[Any]] = {
    "plain": ["<new>"],
    "several": ["<new>", "<NEW>", "new", "word", "<new>"],
    "single word": [AddedToken("new", single_word=True)],
    "stripping": [AddedToken("<new>", lstrip=True, rstrip=True)],
    "stripping left": [AddedToken("<new>", lstrip=True)],
    "special": [AddedToken("<new>", special=True, normalized=False)],
    "not normalized": [AddedToken("<new>", normalized=False)],
    "known": ["<extra_id_5>", "▁Hello", ""],
}


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
def test_add_tokens(tokens: list[Any], special: bool, both: Pair) -> None:
    theirs, ours = both
    added = ours.add_tokens(copy.copy(tokens), special_tokens=special)
    assert added == theirs.add_tokens([copy.copy(token) for token in tokens], special_tokens=special)
    assert_same_tokens(theirs, ours)
    for text in TEXTS:
        assert ours.tokenize(text) == theirs.tokenize(text), text
        ids = quietly(theirs.encode, text)
        assert ours.encode(text) == ids
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(
    "named",
    [
        {"cls_token": "<cls>"},
        {"pad_token": "<new>", "mask_token": AddedToken("<mask>", lstrip=True)},
        {"additional_special_tokens": ["<new>", AddedToken("<NEW>")]},
        {"additional_special_tokens": ["<extra_id_0>", "<new>"], "sep_token": "</s>"},
        {"eos_token": "word"},
        {},
    ],
    ids=lambda named: "-".join(named) or "none",
)
def test_add_special_tokens(named: dict[str, Any], replace: bool, both: Pair) -> None:
    theirs, ours = both
    given = {"replace_additional_special_tokens": replace}
    assert ours.add_special_tokens(copy.deepcopy(named), **given) == theirs.add_special_tokens(
        copy.deepcopy(named), **given
    )
    assert_same_tokens(theirs, ours)
    for text in TEXTS:
        assert ours.tokenize(text) == theirs.tokenize(text)


def test_a_token_of_the_caller_is_not_changed(slow: Pair) -> None:
    """The reference sets `special` on it."""
    token = AddedToken("<new>")
    copy.deepcopy(slow.ours).add_tokens([token], special_tokens=True)
    assert not token.special


def test_names_are_settable(both: Pair) -> None:
    for tokenizer in both:
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.bos_token = AddedToken("<extra_id_7>", lstrip=True)
        tokenizer.cls_token_id = 32099
        tokenizer.unk_token = None
        tokenizer.unk_token = "<unk>"
        tokenizer.additional_special_tokens = ["<extra_id_1>"]
    assert_same_tokens(*both)
    ours = both.ours
    assert ours(["a", "a b"], padding=True)["input_ids"][0][-1] == 1
    ours.additional_special_tokens_ids = [32000, 32001]
    assert ours.additional_special_tokens == ["<extra_id_99>", "<extra_id_98>"]
    ours.eos_token = None
    assert ours.eos_token_id is None
    with pytest.raises(TypeError, match="eos_token must be a str"):
        ours.eos_token = 5


def test_conversions(t5: Pair) -> None:
    tokens = ["▁Hello", "<extra_id_0>", "nothing like this", "</s>", "."]
    ids = t5.theirs.convert_tokens_to_ids(tokens)
    assert t5.ours.convert_tokens_to_ids(tokens) == ids == [8774, 32099, 2, 1, 5]
    assert t5.ours.convert_tokens_to_ids("▁Hello") == 8774
    assert t5.ours.convert_tokens_to_ids(None) is None
    assert t5.ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == t5.theirs.convert_ids_to_tokens(ids, True)
    assert t5.ours.convert_ids_to_tokens(8774) == "▁Hello"
    assert t5.ours.convert_tokens_to_string(list(tokens)) == t5.theirs.convert_tokens_to_string(list(tokens))


@pytest.mark.parametrize(("first", "second"), [([5, 6], None), ([5, 6], [7]), ([], None), ([], [])])
def test_shape_of_model_inputs(first: list[int], second: list[int] | None, t5: Pair) -> None:
    for method in ("build_inputs_with_special_tokens", "create_token_type_ids_from_sequences"):
        assert getattr(t5.ours, method)(first, second) == getattr(t5.theirs, method)(first, second)
    ids = t5.ours.build_inputs_with_special_tokens(first, second)
    assert t5.ours.get_special_tokens_mask(ids, already_has_special_tokens=True) == [int(i == 1) for i in ids]
    assert t5.ours.get_special_tokens_mask(first, second) == [int(i == 1) for i in ids]


def test_sentinels(t5: Pair) -> None:
    assert t5.ours.get_sentinel_tokens() == [f"<extra_id_{i}>" for i in range(100)]
    assert t5.ours.get_sentinel_token_ids() == list(range(32099, 31999, -1))
    assert set(t5.ours.get_sentinel_tokens()) == set(t5.theirs.get_sentinel_tokens())


def test_special_tokens_of_a_name_of_their_own(t5_folder: Path) -> None:
    extra = {"image_token": "<extra_id_3>"}
    ours = T5Tokenizer.from_pretrained(t5_folder, extra_special_tokens=extra)
    assert ours.image_token == "<extra_id_3>"
    assert ours.image_token_id == 32096
    assert "<extra_id_3>" in ours.all_special_tokens
    assert not hasattr(ours, "audio_token")
