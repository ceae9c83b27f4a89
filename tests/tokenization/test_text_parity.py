"""Agreement with the reference on more than twenty thousand texts: ids, tokens, offsets, decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .oracle import FRAGMENTS, Pair, byt5_pair, load_pair, odd_texts, quietly, sentences

VARIANTS = [
    # class, vocabulary, arguments, number of sentences of each of three languages, number of odd texts
    ("T5TokenizerFast", "t5", {}, 1000, 2000),
    ("T5TokenizerFast", "t5", {"legacy": False}, 700, 2000),
    ("T5TokenizerFast", "t5", {"add_prefix_space": False}, 200, 600),
    ("T5Tokenizer", "t5", {}, 500, 1000),
    ("T5Tokenizer", "t5", {"legacy": False}, 500, 1000),
    ("T5Tokenizer", "t5", {"legacy": False, "add_prefix_space": False}, 100, 500),
    ("T5TokenizerFast", "mt5", {}, 400, 600),
    ("T5TokenizerFast", "mt5", {"legacy": False}, 100, 400),
    ("T5Tokenizer", "mt5", {"legacy": False}, 200, 500),
    ("T5TokenizerFast", "umt5", {}, 400, 600),
    ("T5Tokenizer", "umt5", {}, 100, 300),
    ("T5Tokenizer", "umt5", {"legacy": False}, 100, 500),
]


def assert_agree(pair: Pair, texts: list[str]) -> None:
    theirs, ours = pair
    options = {"return_offsets_mapping": True} if ours.is_fast else {}
    expected = quietly(theirs, texts, **options)
    got = ours(texts, **options)
    assert dict(got) == dict(expected)
    ids = got["input_ids"]
    assert ours(texts, add_special_tokens=False) == quietly(theirs, texts, add_special_tokens=False)
    if ours.is_fast:
        for i in range(len(texts)):
            assert got.tokens(i) == expected.tokens(i)
            assert got.word_ids(i) == expected.word_ids(i)
            assert got.sequence_ids(i) == expected.sequence_ids(i)
    else:
        assert [ours.tokenize(text) for text in texts] == [quietly(theirs.tokenize, text) for text in texts]
    for skip in (True, False):
        assert ours.batch_decode(ids, skip) == theirs.batch_decode(ids, skip)
    assert ours.decode(ids[0], clean_up_tokenization_spaces=True) == theirs.decode(
        ids[0], clean_up_tokenization_spaces=True
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v[0]}-{v[1]}-{'-'.join(map(str, v[2].values()))}")
def test_sentences_and_odd_texts(variant: tuple, shared: Path, vocabularies: Path) -> None:
    name, vocabulary, arguments, of_language, odd = variant
    pair = load_pair(name, vocabularies / vocabulary, **arguments)
    texts = [text for language in ("en", "fr", "de") for text in sentences(shared, language, of_language)]
    assert len(texts) == 3 * of_language
    assert_agree(pair, texts + odd_texts(odd, seed=of_language + odd))


def test_number_of_texts() -> None:
    assert sum(3 * of_language + odd for *_, of_language, odd in VARIANTS) >= 20_000


def test_byt5(shared: Path) -> None:
    assert_agree(byt5_pair(), sentences(shared, "fr", 500) + odd_texts(1500, seed=5))


def test_checkpoint_of_a_model(shared: Path) -> None:
    for name in ("T5Tokenizer", "T5TokenizerFast"):
        assert_agree(load_pair(name, shared / "models" / "flan-t5-small-title"), odd_texts(300, seed=6))


def test_tokenizer_json_alone(t5_folder: Path) -> None:
    """Without `add_prefix_space` both read tokenizer.json, whose pipeline differs from a converted one's."""
    file = str(t5_folder / "tokenizer.json")
    theirs, ours = (type(tokenizer)(tokenizer_file=file) for tokenizer in load_pair("T5TokenizerFast", t5_folder))
    assert "WhitespaceSplit" in str(ours.backend_tokenizer.pre_tokenizer)
    assert_agree(Pair(theirs, ours), odd_texts(1000, seed=7))


ANY_TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=8).map("".join),
)
drawn = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast"])
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=12))
@drawn
def test_drawn_texts_t5(name: str, legacy: bool, t5_folder: Path, texts: list[str]) -> None:
    assert_agree(load_pair(name, t5_folder, legacy=legacy), texts)


@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast"])
@pytest.mark.parametrize("vocabulary", ["mt5", "umt5"])
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=12))
@drawn
def test_drawn_texts_of_other_vocabularies(name: str, vocabulary: str, vocabularies: Path, texts: list[str]) -> None:
    assert_agree(load_pair(name, vocabularies / vocabulary), texts)


@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=12))
@drawn
def test_drawn_texts_byt5(texts: list[str]) -> None:
    assert_agree(byt5_pair(), texts)
    for text in texts:  # bytes lose nothing, except where special tokens take spaces away
        if "<" not in text:
            assert byt5_pair().ours.decode(byt5_pair().ours.encode(text), skip_special_tokens=True) == text


@given(ids=st.lists(st.integers(0, 32099), max_size=12), skip=st.booleans(), clean=st.sampled_from([True, False, None]))
@drawn
def test_drawn_ids_decode_alike(t5: Pair, ids: list[int], skip: bool, clean: bool | None) -> None:
    arguments = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
    assert t5.ours.decode(ids, **arguments) == t5.theirs.decode(ids, **arguments)
    assert t5.ours.convert_ids_to_tokens(ids, skip) == t5.theirs.convert_ids_to_tokens(ids, skip)
    if not t5.ours.is_fast:
        arguments["spaces_between_special_tokens"] = False
        assert t5.ours.decode(ids, **arguments) == t5.theirs.decode(ids, **arguments)


def test_legacy_and_not(slow: Pair, t5_folder: Path) -> None:
    modern = load_pair("T5Tokenizer", t5_folder, legacy=False).ours
    assert slow.ours.encode("<extra_id_0>. Hello") == [32099, 3, 5, 8774, 1]
    assert modern.encode("<extra_id_0>. Hello") == [32099, 5, 8774, 1]
    assert type(modern)(str(t5_folder / "spiece.model")).legacy is True  # None means legacy
