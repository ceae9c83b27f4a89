"""Stopping criteria beside the reference's, on real vocabularies; stop strings also against their definition."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import stopping_criteria as theirs

from quintet.generation import stopping
from quintet.generation import stopping as ours

from ..tokenization.oracle import byt5_pair, load_pair, quietly

PAD = 0
STOPS = [
    ["stop"],
    [" the"],
    ["."],
    ["</s>", "?!"],
    ["tion", "ing", "Über"],
    ["<extra_id_1>"],
    ["aa", "aba"],
    ["New York"],
    ["ein Haus ", "\n"],
]


# Stop strings: what must be decided ------------------------------------------------------------------------------


def defined(texts: Sequence[bytes], stops: Sequence[str]) -> bool:
    """Whether there is an occurrence of a stop string that the last text is part of."""
    before = sum(map(len, texts[:-1]))
    whole = b"".join(texts)
    places = ((stop.encode(), start) for stop in stops for start in range(len(whole)))
    return any(whole.startswith(stop, start) and start + len(stop) > before for stop, start in places)


class Words:
    """A tokenizer whose tokens are written one after the other."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        self.converted = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def get_vocab(self) -> dict[str, int]:
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        self.converted += 1
        return "".join(tokens)

    # What the reference asks for.
    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [0]}

    def _convert_id_to_token(self, token_id: int) -> str:
        return "abcdef"


class Part:
    """A reference tokenizer with fewer tokens: the reference takes half a minute to look at all of a large one."""

    def __init__(self, tokenizer: Any, ids: set[int]) -> None:
        self.tokenizer = tokenizer
        self.ids = ids

    def get_vocab(self) -> dict[str, int]:
        return {self.tokenizer.convert_ids_to_tokens(token_id): token_id for token_id in self.ids}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tokenizer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def spellings(texts: dict[int, bytes], stops: Sequence[str], count: int, seed: int = 0) -> Tensor:
    """Rows of ids (count, 12) that spell something like a stop string, cut into tokens at random, padded on the left.

    Each row ends where generation would have come to: in the middle of the string, at its end, or some tokens later.
    """
    choose = random.Random(seed)
    ids_of: dict[bytes, list[int]] = {}
    for token_id, text in texts.items():
        ids_of.setdefault(text, []).append(token_id)
    all_ids = sorted(texts)
    longest = max(map(len, ids_of))
    rows = torch.full((count, 12), PAD)
    for row in rows:
        noise = [texts[choose.choice(all_ids)] for _ in range(3)]
        stop = choose.choice(stops).encode()
        changed = stop[: choose.randint(0, len(stop))] + stop if choose.random() < 0.2 else stop
        rest = choose.choice([b"", noise[0]]) + changed + choose.choice([b"", noise[1], noise[1] + noise[2]])
        ids: list[int] = []
        while rest:
            starts = [rest[:n] for n in range(1, min(longest, len(rest)) + 1) if rest[:n] in ids_of]
            if not starts:
                break
            text = choose.choice(starts)
            ids.append(choose.choice(ids_of[text]))
            rest = rest[len(text) :]
        ids = ids[: choose.randint(1, max(1, len(ids)))][-12:]
        row[12 - len(ids) :] = torch.tensor(ids)
    return rows


def random_rows(ids: Sequence[int], count: int, seed: int = 0) -> Tensor:
    choose = random.Random(seed)
    return torch.tensor([choose.choices(ids, k=12) for _ in range(count)])


@pytest.fixture(scope="module")
def fast(shared: Path) -> Any:
    return load_pair("T5TokenizerFast", shared / "tokenizers" / "t5")


@pytest.fixture(scope="module")
def slow(shared: Path) -> Any:
    return load_pair("T5Tokenizer", shared / "tokenizers" / "t5")


@pytest.fixture(scope="module")
def pieces(fast: Any) -> dict[int, bytes]:
    """The text of each token of T5, read off its piece."""
    return {token_id: token.replace("▁", " ").encode() for token, token_id in fast.theirs.get_vocab().items()}


def assert_decide_alike(ours: Any, theirs: Any, rows: Tensor, both: bool = True) -> None:
    expected = theirs(rows, None)
    assert ours(rows, None).tolist() == expected.tolist()
    if both:
        assert 0.02 < expected.float().mean() < 0.98


# Stop strings: what is decided -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", STOPS, ids=str)
def test_t5_decides_as_the_reference(stops: list[str], fast: Any, slow: Any, pieces: dict[int, bytes]) -> None:
    """The reference's fast tokenizer is the oracle of both: its slow one is wrong about one token, see below."""
    reference = theirs.StopStringCriteria(fast.theirs, stops)
    rows = torch.cat([spellings(pieces, stops, 1000), random_rows(sorted(pieces), 500)])
    for tokenizer in (fast.ours, slow.ours, fast.theirs):
        assert_decide_alike(ours.StopStringCriteria(tokenizer, stops), reference, rows)
    answers = ours.StopStringCriteria(slow.ours, stops)(rows[:300], None).tolist()
    assert answers == [defined([pieces[i] for i in row], stops) for row in rows[:300].tolist()]


def test_a_space_of_its_own_is_a_space(slow: Any) -> None:
    """The reference strips it off with the slow tokenizer, so that "sto p" stops at "stop", and "le " never does."""
    for stop, words, expected in (("stop", ["s", "to", "▁", "p"], False), ("le ", ["le", "▁"], True)):
        rows = torch.tensor([slow.ours.convert_tokens_to_ids(words)])
        part = Part(slow.theirs, {*rows[0].tolist(), slow.ours.convert_tokens_to_ids("▁the")})
        assert quietly(theirs.StopStringCriteria, part, [stop])(rows, None).tolist() == [not expected]
        assert ours.StopStringCriteria(slow.ours, [stop])(rows, None).tolist() == [expected]


@pytest.fixture(scope="module")
def mt5(shared: Path) -> Any:
    return load_pair("T5Tokenizer", shared / "tokenizers" / "mt5")


def test_mt5_decides_as_the_reference(mt5: Any) -> None:
    stops = ["stop", "東京", " New", "tion."]
    ids_of = mt5.ours.get_vocab()
    letters = [ids_of[letter] for letter in {*"".join(stops)} - {" "}]
    within = [i for token, i in ids_of.items() if len(token) > 1 and any(token in f"▁{stop}" for stop in stops)]
    some = random.Random(1).sample(range(len(ids_of)), 1000)
    table = ours.token_bytes(mt5.ours)
    texts = {
        i: table[i] for i in {*letters, *within, *some, PAD} if not table[i].decode(errors="ignore")[-1:].isspace()
    }
    assert len(texts) > 900
    reference = quietly(theirs.StopStringCriteria, Part(mt5.theirs, set(texts)), stops)
    criterion = ours.StopStringCriteria(mt5.ours, stops)
    assert_decide_alike(criterion, reference, spellings(texts, stops, 1000))
    assert_decide_alike(criterion, reference, random_rows(sorted(texts), 500), both=False)


def test_a_character_spelt_as_bytes(mt5: Any) -> None:
    """The reference reads each byte as U+FFFD, though the text has the character."""
    ids = mt5.ours.convert_tokens_to_ids(["c", "a", "f", "<0xC3>", "<0xA9>"])
    assert mt5.ours.decode(ids) == mt5.theirs.decode(ids) == "café"
    reference = quietly(
        theirs.StopStringCriteria, Part(mt5.theirs, {*ids, mt5.ours.convert_tokens_to_ids("é")}), "café"
    )
    criterion = ours.StopStringCriteria(mt5.ours, "café")
    assert [criterion(torch.tensor([ids[:n]]), None).item() for n in range(1, 6)] == [False] * 4 + [True]
    assert [reference(torch.tensor([ids[:n]]), None).item() for n in range(1, 6)] == [False] * 5


def test_a_newline_spelt_as_a_byte(mt5: Any) -> None:
    """mT5 has no other; the reference's slow tokenizer strips it, and says that the vocabulary has none."""
    some, newline = mt5.ours.convert_tokens_to_ids(["a", "<0x0A>"])
    with pytest.raises(ValueError, match="unable to identify tokens"):
        quietly(theirs.StopStringCriteria, Part(mt5.theirs, {some, newline}), ["\n"])
    assert ours.StopStringCriteria(mt5.ours, "\n")(torch.tensor([[some, newline]]), None).tolist() == [True]


def test_without_byte_fallback_a_byte_token_is_written_out() -> None:
    assert ours.token_bytes(Words(["<0x0A>"])) == [b"<0x0A>"]


def test_byt5_decides_as_the_reference() -> None:
    pair = byt5_pair()
    ascii_ids = {i: bytes([i - 3]) for i in range(3, 131)}
    for stop in ("stop", ". ", "\n", "aa", "abab"):
        reference = theirs.StopStringCriteria(pair.theirs, [stop])
        criterion = ours.StopStringCriteria(pair.ours, [stop])
        assert_decide_alike(criterion, reference, spellings(ascii_ids, [stop], 500))
        few = [ord(character) + 3 for character in {*stop, "x"}] + [198, 172, 259, 1]
        assert_decide_alike(criterion, reference, random_rows(few, 500), both=False)


def test_byt5_characters_of_several_bytes() -> None:
    """The reference knows no token for them and refuses; beside others it takes their bytes for nothing."""
    pair = byt5_pair()
    with pytest.raises(ValueError, match="unable to identify tokens"):
        theirs.StopStringCriteria(pair.theirs, ["é"])
    ids = pair.ours("Der Käfer", add_special_tokens=False, return_tensors="pt")["input_ids"]
    answers = [ours.StopStringCriteria(pair.ours, "Kä")(ids[:, :n], None).item() for n in range(1, ids.shape[1] + 1)]
    assert answers == [False] * 6 + [True] + [False] * 3  # "Der K" and the two bytes of ä

    stops = ["Kfer", "a longer one"]
    assert theirs.StopStringCriteria(pair.theirs, stops)(ids, None).item()
    assert not ours.StopStringCriteria(pair.ours, stops)(ids, None).item()


@given(
    tokens=st.lists(st.text("abé", min_size=1, max_size=4), min_size=1, max_size=8, unique=True),
    stops=st.lists(st.text("abé", min_size=1, max_size=6), min_size=1, max_size=3),
    data=st.data(),
)
def test_any_vocabulary(tokens: list[str], stops: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(st.integers(0, len(tokens)), min_size=9, max_size=9), min_size=1, max_size=5))
    tokenizer = Words(tokens)
    try:
        reference = theirs.StopStringCriteria(tokenizer, stops)
    except ValueError:  # no token can end any of the strings
        with pytest.raises(ValueError, match="can complete"):
            ours.StopStringCriteria(tokenizer, stops)
        return
    criterion = ours.StopStringCriteria(tokenizer, stops)
    texts = [*(token.encode() for token in tokens), b"\n"]  # the last one for ids that the tokenizer lacks
    for length in range(1, 10):
        ids = torch.tensor(rows)[:, :length]
        expected = [defined([texts[i] for i in row], stops) for row in ids.tolist()]
        assert criterion(ids, None).tolist() == expected == reference(ids, None).tolist()


def test_ids_beyond_the_tokenizer(slow: Any) -> None:
    """A model's vocabulary is padded; ids of no token interrupt a stop string."""
    (s, top), beyond = slow.ours.convert_tokens_to_ids(["s", "top"]), 32127
    criterion = ours.StopStringCriteria(slow.ours, "stop")
    rows = torch.tensor([[s, top], [beyond, top], [s, beyond]])
    assert criterion(rows, None).tolist() == [True, False, False]
    assert criterion(torch.tensor([[s, beyond, top]]), None).tolist() == [False]


def test_the_prefix_counts_as_text(slow: Any) -> None:
    """As in the reference: a stop string may begin in the decoder's prefix, where generation knows no difference."""
    ids = torch.tensor([slow.ours.convert_tokens_to_ids(["<pad>", "s", "top"])])
    assert ours.StopStringCriteria(slow.ours, ["<pad>stop"])(ids, None).tolist() == [True]


def test_the_table_is_made_once_and_goes_with_its_tokenizer() -> None:
    tokenizer = Words(["a", "b"])
    for stop in ("a", "ab"):
        ours.StopStringCriteria(tokenizer, stop)
    assert tokenizer.converted == 2
    tokenizer.tokens.append("c")
    assert ours.StopStringCriteria(tokenizer, "c")(torch.tensor([[0, 2], [2, 0]]), None).tolist() == [True, False]
    known = len(stopping._tables)
    del tokenizer
    gc.collect()
    assert len(stopping._tables) == known - 1


@pytest.mark.parametrize("stops", [[], "", ["a", ""], None, 3, ["a", 3], b"a", {"a": 1}], ids=repr)
def test_stop_strings_that_are_refused(stops: Any) -> None:
    with pytest.raises(ValueError, match="stop_strings must"):
        ours.StopStringCriteria(Words(["a"]), stops)


@pytest.mark.parametrize("tokenizer", [None, "t5-small", SimpleNamespace(get_vocab=dict)], ids=repr)
def test_stop_strings_without_a_tokenizer(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="need the model's tokenizer"):
        ours.StopStringCriteria(tokenizer, "a")


def test_stop_strings_that_the_vocabulary_cannot_write(slow: Any, fast: Any) -> None:
    with pytest.raises(ValueError, match="unable to identify tokens"):
        theirs.StopStringCriteria(fast.theirs, ["\n"])
    with pytest.raises(ValueError, match=r"no token .* can complete any of the stop_strings '\\n'"):
        ours.StopStringCriteria(slow.ours, "\n")


# The other criteria ----------------------------------------------------------------------------------------------

TARGETS = torch.tensor([[0, 5, 1], [0, 1, 7], [0, 9, 9]])


@pytest.mark.parametrize("max_length", [1, 2, 3, 4, 20])
def test_max_length(max_length: int) -> None:
    one, other = ours.MaxLengthCriteria(max_length), theirs.MaxLengthCriteria(max_length)
    for length in (1, 2, 3):
        assert_same(one(TARGETS[:, :length], None), other(TARGETS[:, :length], None))


def test_max_position_embeddings(caplog: pytest.LogCaptureFixture) -> None:
    criterion = ours.MaxLengthCriteria(max_length=3, max_position_embeddings=2)
    for length in (1, 2, 2, 3):
        criterion(TARGETS[:, :length], None)
        assert len(caplog.records) == (length > 1)


@pytest.mark.parametrize("started", [None, 93.0, 95.0, 96.0])
@pytest.mark.parametrize("max_time", [0, 5, 0.5])
def test_max_time(max_time: float, started: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    for module in (stopping, theirs):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock[0]))
    one, other = ours.MaxTimeCriteria(max_time, started), theirs.MaxTimeCriteria(max_time, started)
    answers = []
    for _ in range(20):
        assert_same(one(TARGETS, None), other(TARGETS, None))
        answers.append(one(TARGETS, None).all().item())
        clock[0] += 0.5
    assert answers[-1]
    assert answers == sorted(answers)


@pytest.mark.parametrize("eos", [1, [1], [1, 9], (7, 1), torch.tensor([7]), torch.tensor(9), [40]], ids=repr)
def test_eos(eos: Any) -> None:
    assert_same(ours.EosTokenCriteria(eos)(TARGETS, None), theirs.EosTokenCriteria(eos)(TARGETS, None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ours.MaxLengthCriteria(0), "max_length must be a positive integer, got 0"),
        (lambda: ours.MaxLengthCriteria(True), "max_length must be a positive integer, got True"),
        (lambda: ours.MaxLengthCriteria(2.0), "max_length must be a positive integer, got 2.0"),
        (lambda: ours.MaxTimeCriteria(-1), "max_time must be a number of seconds of at least 0, got -1"),
        (lambda: ours.MaxTimeCriteria(float("nan")), "max_time must be"),
        (lambda: ours.MaxTimeCriteria("1"), "max_time must be"),
        (lambda: ours.MaxTimeCriteria(True), "max_time must be"),
        (lambda: ours.EosTokenCriteria([]), "eos_token_id must be"),
        (lambda: ours.EosTokenCriteria(None), "eos_token_id must be"),
        (lambda: ours.EosTokenCriteria("</s>"), "eos_token_id must be"),
        (lambda: ours.EosTokenCriteria([True]), "eos_token_id must be"),
        (lambda: ours.EosTokenCriteria(torch.tensor([0.5])), "eos_token_id must be"),
    ],
)
def test_senseless_values_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype == torch.bool
    assert ours.tolist() == theirs.tolist()


# Lists of criteria -----------------------------------------------------------------------------------------------


class Custom(ours.StoppingCriteria):
    """A user's criterion that answers what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return self.answer


class Remembering(Custom):
    """A user's criterion that holds something per row, and can let go of rows."""

    def __init__(self, answer: Any) -> None:
        super().__init__(answer)
        self.kept: list[list[int]] = []

    def select(self, rows: Tensor) -> None:
        self.answer = self.answer[rows]
        self.kept.append(rows.tolist())


@given(
    st.lists(
        st.one_of(
            st.booleans(),
            st.booleans().map(torch.tensor),
            st.lists(st.booleans(), min_size=3, max_size=3).map(torch.tensor),
        )
    )
)
def test_a_row_ends_where_one_member_says_so(answers: list[Any]) -> None:
    one = ours.StoppingCriteriaList(map(Custom, answers))
    other = theirs.StoppingCriteriaList(map(Custom, answers))
    assert_same(one(TARGETS, None), other(TARGETS, None))


def test_members_are_asked_with_everything() -> None:
    def criterion(input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        seen.append((input_ids, scores, kwargs))
        return np.bool_(True)

    seen: list[Any] = []
    scores = torch.zeros(3, 5)
    assert ours.StoppingCriteriaList([criterion])(TARGETS, scores, extra=1).tolist() == [True] * 3
    assert seen == [(TARGETS, scores, {"extra": 1})]


@pytest.mark.parametrize(
    ("answer", "error", "got"),
    [
        (None, TypeError, "NoneType"),
        (1, TypeError, "int"),
        ([True, False, True], TypeError, "list"),
        (torch.tensor([0, 1, 0]), TypeError, "torch.int64"),
        (torch.tensor([True, False]), ValueError, r"\(2,\)"),
        (torch.tensor([[True], [False], [True]]), ValueError, r"\(3, 1\)"),
        (torch.tensor([True]), ValueError, r"\(1,\)"),
    ],
)
def test_answers_that_make_no_sense(answer: Any, error: type[Exception], got: str) -> None:
    with pytest.raises(error, match=rf"Custom must answer with .*\(3,\).*: got .*{got}"):
        ours.StoppingCriteriaList([Custom(answer)])(TARGETS, None)


def test_max_length_of_a_list() -> None:
    for module in (ours, theirs):
        empty = module.StoppingCriteriaList()
        assert empty.max_length is None
        members = [module.EosTokenCriteria(1), module.MaxLengthCriteria(7), module.MaxLengthCriteria(5)]
        assert module.StoppingCriteriaList(members).max_length == 7
    assert ours.StoppingCriteriaList()(TARGETS, None).tolist() == [False] * 3


def test_rows_leave() -> None:
    stop_string = ours.StopStringCriteria(Words(["a", "b"]), "ab")
    remembering = Remembering(torch.tensor([True, False, False]))
    own = [ours.MaxLengthCriteria(9), ours.MaxTimeCriteria(9), ours.EosTokenCriteria(8), stop_string]
    criteria = ours.StoppingCriteriaList([*own, remembering])
    assert criteria.can_select
    assert criteria(TARGETS[:, :1], None).tolist() == [True, False, False]
    criteria.select(torch.tensor([2, 0]))
    assert remembering.kept == [[2, 0]]
    assert criteria(TARGETS[[2, 0], :1], None).tolist() == [False, True]


def test_rows_stay_where_a_member_does_not_know_how_to_let_them_go() -> None:
    assert ours.StoppingCriteriaList().can_select
    assert not ours.StoppingCriteriaList([ours.EosTokenCriteria(1), Custom(False)]).can_select
    assert not ours.StoppingCriteriaList([lambda input_ids, scores: False]).can_select


def test_a_criterion_without_a_rule() -> None:
    with pytest.raises(NotImplementedError, match="StoppingCriteria must define __call__"):
        ours.StoppingCriteria()(TARGETS, None)
