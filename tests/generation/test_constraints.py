"""Structured output: every result is valid, whatever the scores, the strategy and the tokenizer."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import regex  # of the reference's dependencies; unlike `re`, it knows what may still become a match
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quintet.generation.constraints import Constraint, build_constraint
from quintet.generation.constraints.automaton import _LIMITS, _SPACES
from quintet.generation.processors import LogitsProcessorList
from quintet.tokenizers import ByT5Tokenizer, T5Tokenizer, T5TokenizerFast

PAD, EOS = 0, 1
SIZES = {"t5": 32128, "t5-fast": 32128, "mt5": 250112, "umt5-fast": 256384, "byt5": 384}
SHARED = Path(__file__).resolve().parents[3] / "shared"


@cache
def tokenizer_of(name: str) -> Any:
    if name == "byt5":
        return ByT5Tokenizer()
    folder = SHARED / "tokenizers" / name.removesuffix("-fast")
    kind = T5TokenizerFast if name.endswith("-fast") else T5Tokenizer
    return kind.from_pretrained(folder)


def build(spec: Any, name: str | None, max_length: int = 24, **changes: Any) -> Constraint:
    """A constraint for the tokenizer of that name, or for none; targets start with one token."""
    options = {"eos_token_ids": [EOS], "prefix_length": 1, "max_length": max_length}
    options |= {"tokenizer": tokenizer_of(name) if name else None, "vocab_size": SIZES[name] if name else 12}
    return build_constraint(spec, **{**options, **changes})


def random_scores(rows: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Scores that know nothing; only that results end some time."""
    scores = torch.randn(rows, size, generator=generator)
    scores[:, EOS] += 3.0
    return scores


def play(constraint: Constraint, size: int, sample: bool = False, rows: int = 4, seed: int = 0) -> list[list[int]]:
    """Greedy decoding or sampling over random scores: the rows' tokens, without the start and the end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((rows, 1), PAD)
    ended = torch.zeros(rows, dtype=torch.bool)
    while ids.shape[1] < constraint.max_length and not ended.all():
        scores = constraint(ids, random_scores(rows, size, generator))
        assert (scores > -torch.inf).any(dim=1).all()
        chosen = scores.argmax(1) if not sample else scores.softmax(1).multinomial(1, generator=generator)[:, 0]
        chosen = chosen.masked_fill(ended, PAD)
        ended |= chosen == EOS
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    return [cut(row) for row in ids[:, 1:].tolist()]


def play_beams(constraint: Constraint, size: int, width: int = 4, seed: int = 0) -> list[list[int]]:
    """A plain beam search over random scores: the targets that ended, best first."""
    generator = torch.Generator().manual_seed(seed)
    beams: list[tuple[float, list[int]]] = [(0.0, [PAD])]
    done: list[tuple[float, list[int]]] = []
    while beams and len(beams[0][1]) < constraint.max_length:
        ids = torch.tensor([tokens for _, tokens in beams])
        scores = constraint(ids, random_scores(len(beams), size, generator).log_softmax(1))
        total = scores + torch.tensor([[score] for score, _ in beams])
        best, places = total.flatten().topk(min(2 * width, total.numel()))
        candidates = [
            (score, [*beams[place // size][1], place % size])
            for score, place in zip(best.tolist(), places.tolist(), strict=True)
            if score > -torch.inf
        ]
        done += [candidate for candidate in candidates if candidate[1][-1] == EOS]
        beams = [candidate for candidate in candidates if candidate[1][-1] != EOS][:width]
    assert done
    return [cut(tokens[1:]) for _, tokens in sorted(done, reverse=True)]


def cut(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS)] if EOS in tokens else tokens


STRATEGIES: dict[str, Any] = {"greedy": play, "sampling": partial(play, sample=True), "beams": play_beams}
RUNS = [(name, strategy) for name in ("t5", "t5-fast", "byt5") for strategy in STRATEGIES]


@pytest.fixture(params=[*RUNS, ("mt5", "sampling")], ids="-".join)
def run(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A tokenizer's name and a strategy."""
    if request.param[0] != "byt5":
        request.getfixturevalue("shared")
    return request.param


def texts_of(constraint: Constraint, name: str, strategy: str) -> list[str]:
    """The texts of results, as users decode them. All of them are finished."""
    results = STRATEGIES[strategy](constraint, SIZES[name])
    assert all(constraint.finished(tokens) for tokens in results)
    return tokenizer_of(name).batch_decode(results, skip_special_tokens=True)


def allowed_after(constraint: Constraint, tokens: Sequence[int], size: int) -> set[int]:
    scores = constraint(torch.tensor([[PAD, *tokens]]), torch.zeros(1, size))
    return set((scores[0] > -torch.inf).nonzero().flatten().tolist())


def t5_ids(*texts: str) -> list[list[int]]:
    return [[PAD, *tokenizer_of("t5")(text, add_special_tokens=False)["input_ids"]] for text in texts]


# Answers -------------------------------------------------------------------------------------------------------------

ANSWERS = ["New York", "New York City", "entailment", "not entailment", "7", "San José"]


def test_results_are_among_the_answers(run: tuple[str, str]) -> None:
    assert {*texts_of(build(ANSWERS, run[0]), *run)} <= {*ANSWERS}


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_every_answer_can_be_reached_and_then_only_the_end(kind: Callable[..., Any], shared: Path) -> None:
    constraint = build(kind(ANSWERS), "t5")
    for answer in ANSWERS:
        ids = tokenizer_of("t5")(answer)["input_ids"]
        assert ids[-1] == EOS
        for place, token in enumerate(ids):
            assert token in allowed_after(constraint, ids[:place], SIZES["t5"])
    short, long = (ids[1:] for ids in t5_ids(*ANSWERS[:2]))
    assert allowed_after(constraint, short, SIZES["t5"]) == {EOS, long[len(short)]}
    assert allowed_after(constraint, long, SIZES["t5"]) == {EOS}


answer_ids = st.lists(st.integers(2, 6), max_size=4)


@given(answers=st.lists(answer_ids, min_size=1, max_size=6), prefix=answer_ids, ends=st.sampled_from([[1], [1, 9]]))
def test_a_trie_allows_what_its_definition_says(answers: list[list[int]], prefix: list[int], ends: list[int]) -> None:
    constraint = build(answers, None, eos_token_ids=ends, vocab_size=10)
    fitting = [answer for answer in answers if answer[: len(prefix)] == prefix]
    expected = {answer[len(prefix)] for answer in fitting if len(answer) > len(prefix)}
    expected |= set(ends) if prefix in answers else set()
    # Tokens that are no answer's are left alone: what comes after them is lost anyway.
    assert allowed_after(constraint, prefix, 10) == (expected or set(range(10)))
    assert constraint.finished(prefix) == (prefix in answers)
    assert constraint.finished([*prefix, ends[-1], PAD]) == (prefix in answers)


def test_answers_of_ids_may_have_their_end_token() -> None:
    assert allowed_after(build([[5, 6, EOS], (5, 7)], None), [5, 6], 12) == {EOS}


# Regular expressions -------------------------------------------------------------------------------------------------

EXPRESSIONS = [
    r"\d{4}-\d\d-\d\d",
    r"(yes|no|maybe)( I think so)?",
    r"[A-Z]\w{0,5}( [A-Z]\w{0,5}){0,2}",
    re.compile(r"(?x) [a-f]{2,8} (?i: total )?  # a comment"),
    re.compile("straße|k+", re.IGNORECASE),
    r"^[^aeiou]{1,5}$",
    r"\s*\S{1,9}\s?",
    r"(a|b \.|\{)c?~?",
    r"[a-z]{1,9}( [.,!?a-z']{1,3}){1,3}",
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_results_match_a_regular_expression(expression: Any, run: tuple[str, str]) -> None:
    for text in texts_of(build(expression, run[0], max_length=80), *run):
        assert re.fullmatch(expression, text), text


SYNTAX = [
    r"\w+\W\w+",
    r"[\d\s]+x?",
    r"\D\S*",
    r"[^\W\d_]+",
    r"(?i)[k-mß]+",
    r"(?a)\w+\s\d",
    r"(?a:\w)\w",
    r"(?s).{2,3}|.x",
    r".+?y*?",
    r"(?P<first>a|bc|)(?:d{2}){1,}",
    r"(?i:ab)C|(?-i:d)",
    r"(?m)^a$|b\Z|\Ac",
    "[]^-]+|[^a]b",
    r"\x41\u00e9\U0001F600?",
    r"(?x) a \  b # comment",
    "",
]


@pytest.mark.parametrize("pattern", SYNTAX)
@given(data=st.data())
@settings(max_examples=60)
def test_the_meaning_is_pythons(pattern: str, data: st.DataObject) -> None:
    """On ByT5, where any text can be written."""
    texts = st.from_regex(pattern, fullmatch=True) | st.text(max_size=5) | st.text("aAbBkKſ 1x_\n", max_size=4)
    text = data.draw(texts).encode(errors="ignore").decode()
    expected = re.fullmatch(pattern, text) is not None
    assert shared_constraint(pattern).finished([byte + 3 for byte in text.encode()]) == expected


SHARED_CONSTRAINTS: dict[str, Constraint] = {}


def shared_constraint(spec: Any, **attributes: Any) -> Constraint:
    """A constraint on ByT5 that many examples read."""
    key = f"{spec!r} {attributes}"
    if key not in SHARED_CONSTRAINTS:
        SHARED_CONSTRAINTS[key] = build(spec, "byt5", tokenizer=ByT5Tokenizer(**attributes))
    return SHARED_CONSTRAINTS[key]


@pytest.mark.parametrize("pattern", [r"\d{4}-\d\d", "(yes|no|maybe)( I think so)?", "[a-c]{2,}x?"])
def test_every_token_that_may_follow_is_allowed_and_no_other(pattern: str, shared: Path) -> None:
    tokenizer, size = tokenizer_of("t5"), SIZES["t5"]
    constraint = build(pattern, "t5")
    special = set(tokenizer.all_special_ids)
    pieces = {token: piece for piece, token in tokenizer.get_vocab().items() if token not in special}
    partial = regex.compile(pattern)
    generator = torch.Generator().manual_seed(1)
    tokens: list[int] = []
    while len(tokens) < 5:
        before = "".join(pieces[token] for token in tokens)
        expected = {token for token, piece in pieces.items() if may_become(partial, before + piece)}
        if partial.fullmatch(before.replace("▁", " ").removeprefix(" ")):
            expected.add(EOS)
        assert allowed_after(constraint, tokens, size) == expected
        open_ends = sorted(expected - {EOS})
        if not open_ends:
            break
        tokens.append(open_ends[int(torch.randint(len(open_ends), (), generator=generator))])


def may_become(pattern: Any, written: str) -> bool:
    """Whether a text of pieces can still become a match once its first space is dropped."""
    text = written.replace("▁", " ").removeprefix(" ")
    return not text.startswith(" ") and pattern.fullmatch(text, partial=True) is not None


@pytest.mark.parametrize(("spec", "quote"), [(".*", ""), ({"type": "string"}, '"')], ids=["expression", "schema"])
@given(text=st.text(" .?!,'ntmsver", max_size=8))
def test_texts_that_clean_up_would_change_are_out(spec: Any, quote: str, text: str) -> None:
    text = quote + text + quote
    constraint = shared_constraint(spec, clean_up_tokenization_spaces=True)
    unchanged = ByT5Tokenizer.clean_up_tokenization(text) == text
    assert constraint.finished([byte + 3 for byte in text.encode()]) == unchanged


def test_all_white_space_that_decoding_strips_is_known() -> None:
    assert [c for c in map(chr, range(sys.maxunicode + 1)) if not c.strip()] == _SPACES


# JSON ----------------------------------------------------------------------------------------------------------------

PEOPLE = {
    "type": "array",
    "minItems": 1,
    "maxItems": 2,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "kind": {"enum": ["cat", "car", None]},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}


def check_people(value: Any) -> None:
    assert isinstance(value, list)
    assert len(value) in (1, 2)
    for person in value:
        assert {"name", "age"} <= person.keys() <= {"name", "age", "kind"}
        assert re.fullmatch("(?s).{0,6}", person["name"])
        assert person["age"] in range(131)
        assert person.get("kind") in ("cat", "car", None)


@pytest.mark.parametrize(("name", "strategy"), [*RUNS[-3:], ("mt5", "sampling")])
def test_results_follow_a_json_schema(name: str, strategy: str, shared: Path) -> None:
    for text in texts_of(build(PEOPLE, name, max_length=120), name, strategy):
        check_people(json.loads(text))


def test_t5_writes_objects_once_it_has_the_braces(shared: Path) -> None:
    tokenizer = T5TokenizerFast.from_pretrained(shared / "tokenizers" / "t5")
    tokenizer.add_tokens(["{", "}"])
    results = play(build(PEOPLE, "t5", 120, tokenizer=tokenizer), SIZES["t5"], sample=True, rows=8)
    for text in tokenizer.batch_decode(results, skip_special_tokens=True):
        check_people(json.loads(text))


@pytest.mark.parametrize(("name", "strategy"), RUNS[:-3])
def test_t5_writes_what_needs_no_braces(name: str, strategy: str, shared: Path) -> None:
    schema = {"type": "array", "items": {"type": "string", "pattern": "^[a-z .,']{1,6}$"}, "minItems": 1, "maxItems": 2}
    for text in texts_of(build(schema, name, 40), name, strategy):
        assert all(re.fullmatch("[a-z .,']{1,6}", item) for item in json.loads(text)), text


def test_a_class_with_a_schema_is_one() -> None:
    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"enum": [[1, 2], "x"]}

    results = play(build(Model, "byt5"), SIZES["byt5"], sample=True)
    assert {bytes(token - 3 for token in tokens) for tokens in results} <= {b"[1,2]", b"[1, 2]", b'"x"'}


# Rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [ANSWERS, r"(\w{1,3} )*\w+", PEOPLE], ids=["answers", "expression", "schema"])
def test_rows_may_be_reordered_doubled_and_dropped(spec: Any) -> None:
    constraint = build(spec, "byt5", max_length=40)
    generator = torch.Generator().manual_seed(4)
    ids = torch.full((5, 1), PAD)
    for _ in range(20):
        scores = torch.randn(len(ids), SIZES["byt5"], generator=generator)
        processed = constraint(ids, scores)
        assert torch.equal(processed, build(spec, "byt5", max_length=40)(ids, scores))
        ids = torch.cat([ids, processed.argmax(dim=1, keepdim=True)], dim=1)
        ids = ids[torch.randint(len(ids), (int(torch.randint(3, 7, (), generator=generator)),), generator=generator)]


def test_several_new_tokens_at_once_and_fewer_than_before() -> None:
    """As with drafts of an assistant."""
    constraint = build("abcdef", "byt5")
    tokens = [ord(letter) + 3 for letter in "abcdef"]
    for length in (0, 4, 2, 6, 5):
        expected = {tokens[length]} if length < 6 else {EOS}
        assert allowed_after(constraint, tokens[:length], SIZES["byt5"]) == expected


def test_rows_that_have_ended_or_strayed_are_left_alone() -> None:
    constraint = build([[5, 6], [7]], None)
    ids = torch.tensor([[PAD, 7, EOS, PAD], [PAD, 8, 8, 8], [PAD, 5, 6, EOS]])
    scores = torch.randn(3, 12)
    assert torch.equal(constraint(ids, scores), scores)
    scores = torch.randn(1, SIZES["byt5"])
    assert torch.equal(build("a", "byt5")(torch.tensor([[PAD, ord("a") + 3, EOS]]), scores), scores)


def test_a_prefix_is_not_looked_at() -> None:
    constraint = build([[5, 6]], None, prefix_length=3)
    scores = constraint(torch.tensor([[PAD, EOS, 9], [PAD, 9, 5]]), torch.zeros(2, 12))
    assert (scores > -torch.inf).nonzero().tolist() == [[0, 5], [1, 5]]


def test_at_the_last_place_a_complete_row_ends() -> None:
    constraint = build("a+b?", "byt5", max_length=5)
    a, b = ord("a") + 3, ord("b") + 3
    assert allowed_after(constraint, [a, a], SIZES["byt5"]) == {a, b, EOS}
    assert allowed_after(constraint, [a, a, a], SIZES["byt5"]) == {EOS}


def test_finished_rows_can_leave_the_batch() -> None:
    assert LogitsProcessorList([build([[5]], None)]).can_select


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_row_that_cannot_go_on_is_named(shared: Path) -> None:
    schema = {"type": "array", "items": {"enum": ["fine", "a~b"]}, "minItems": 2}
    constraint, ids = build(schema, "t5"), torch.tensor(t5_ids('["f', '["a'))
    with pytest.raises(ValueError, match=r"row 1 cannot go on: no token may follow '\[\"a'.*lacks.*'~'"):
        constraint(ids, torch.zeros(2, SIZES["t5"]))
    constraint.select(torch.tensor([3, 4, 7]))
    constraint.select(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="row 7 cannot go on"):
        constraint(ids, torch.zeros(2, SIZES["t5"]))


def test_a_beam_that_cannot_go_on_is_no_error_while_another_can(shared: Path) -> None:
    good, bad = t5_ids('"f', '"a')
    constraint = build({"enum": ["fine", "a~b"]}, "t5", rows_per_source=2)
    scores = constraint(torch.tensor([good, bad]), torch.zeros(2, SIZES["t5"]))
    assert (scores > -torch.inf).any(dim=1).tolist() == [True, False]
    with pytest.raises(ValueError, match="row 1 cannot go on"):
        constraint(torch.tensor([good, bad, bad, bad]), torch.zeros(4, SIZES["t5"]))


def test_results_that_are_cut_or_stray_are_told_apart() -> None:
    constraint = build("a{3}", "byt5")
    a = ord("a") + 3
    assert not constraint.finished([a, a])
    message = constraint.unfinished(2, [a, a])
    assert message.startswith("row 2 was cut after 2 tokens")
    assert "'aa'" in message
    assert "max_new_tokens" in message
    assert not constraint.finished([a, a + 1, EOS])
    assert not constraint.finished([a, PAD, a, a])
    assert constraint.unfinished(0, [a, a + 1]).startswith("row 0 does not follow the constraint")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], "empty set of answers"),
        (["fine", "a{b}<c"], r"cannot write the answer 'a\{b\}<c': it lacks '\{', '\}', '<'.*add_tokens"),
        (["two  spaces"], "'two  spaces' would come out as 'two spaces'"),
        ([" x"], "' x' would come out as 'x'"),
        (["sentinel <extra_id_0>"], "would come out as 'sentinel'"),
        (["one two three four five six seven eight"], "needs 9 tokens with the end token, but there is room for 8"),
        ([5, 6], "a list of token ids, got 5"),
        ([[5, -1]], "outside the model's vocabulary"),
        ([[5, 32_128]], "outside the model's vocabulary, 0 to 32127"),
        ([[5, EOS, 6]], "has an end token inside"),
        ([[5, True]], "token id of an answer"),
        (7, "constraint must be a list of answers"),
        ("(", "is not a regular expression"),
        (re.compile(b"a"), "matches bytes"),
        (r"\{\d+\}", r"it lacks '\{', '\}'.*ByT5.*add_tokens"),
        ("a[{~]", r"it lacks \[\\\{\\~\]"),
        ("(?!a)b", "look-around"),
        (r"(a)\1", "back-reference"),
        (r"a\bb", "word boundary"),
        (" a", "decoding would leave as it is"),
        (r"a \.", "before punctuation"),
        ({"type": "object"}, r"fits the JSON schema.*lacks '<'.*'\{'"),
        ({"type": "array", "minItems": 1, "items": {"type": "object"}}, "fits the JSON schema"),
        ({"type": "nonsense"}, "not one that llguidance can follow"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_decoding(spec: Any, message: str, shared: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec, "t5", max_length=9)


@pytest.mark.parametrize("spec", [["text"], "a+", {"type": "integer"}], ids=str)
def test_texts_need_a_tokenizer(spec: Any) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        build(spec, None)


def test_an_end_token_and_scores_of_the_right_size_are_needed() -> None:
    with pytest.raises(ValueError, match="eos_token_id"):
        build([[5]], None, eos_token_ids=[])
    with pytest.raises(ValueError, match="built for 12 tokens, but the scores are of 13"):
        build([[5]], None)(torch.tensor([[PAD]]), torch.zeros(1, 13))


def test_a_step_that_the_library_gives_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_LIMITS, "step_lexer_fuel", 1)
    with pytest.raises(ValueError, match="llguidance cannot follow the constraint any further: "):
        play(build("(.*a.{30}b)*.*c.{20}", "byt5"), SIZES["byt5"], sample=True)


def test_without_the_library_answers_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    build(["yes", "no"], "byt5")
    for spec in ("a+", {"type": "integer"}):
        with pytest.raises(ImportError, match=re.escape('pip install "quintet[structured]"')):
            build(spec, "byt5")
