"""Extractive question answering beside the reference's pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from .conftest import close

# The reference hands torch's tensors to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Pipes = Callable[..., tuple[Any, Any]]
TASK = "question-answering"
QUESTION = "Where does Wolfgang live?"
CONTEXT = "My name is Wolfgang; I live in Berlin. The house is wonderful, and Montréal is far away."


@pytest.fixture(scope="module")
def pipes(make_pipes: Pipes) -> Pipes:
    return lambda **options: make_pipes(TASK, changes={"num_labels": 2}, **options)


@pytest.fixture(scope="module")
def squad(shared: Path) -> list[dict[str, str]]:
    """Questions on real paragraphs, the first three of three."""
    path = next((shared / "data" / "xquad").glob("*en*"))
    articles = json.loads(path.read_text(encoding="utf-8"))["data"][:3]
    paragraphs = [article["paragraphs"][0] for article in articles]
    return [
        {"question": entry["question"], "context": paragraph["context"]}
        for paragraph in paragraphs
        for entry in paragraph["qas"][:3]
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3},
        {"top_k": 500},
        {"max_answer_len": 1, "top_k": 2},
        {"align_to_words": False, "top_k": 3},
        {"align_to_words": False},
        {"handle_impossible_answer": True, "top_k": 50},
        {"padding": "max_length"},
        {"max_question_len": 3},
    ],
    ids=str,
)
def test_results(options: dict[str, Any], pipes: Pipes) -> None:
    ours, theirs = pipes()
    result, expected = (pipe(question=QUESTION, context=CONTEXT, **options) for pipe in (ours, theirs))
    if options.get("top_k") == 500:  # rounding decides the order of answers that are as good as equal
        result, expected = (sorted(found, key=itemgetter("start", "end")) for found in (result, expected))
    assert close(result, expected)
    for answer in result if isinstance(result, list) else [result]:
        assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"]


@pytest.mark.parametrize(
    "options", [{}, {"max_seq_len": 64, "doc_stride": 16}, {"max_seq_len": 50, "top_k": 4}], ids=str
)
def test_long_contexts(options: dict[str, Any], pipes: Pipes, squad: list[dict[str, str]]) -> None:
    ours, theirs = pipes()
    questions, contexts = ([entry[key] for entry in squad] for key in ("question", "context"))
    expected = theirs(question=questions, context=contexts, **options)
    assert close(ours(question=questions, context=contexts, **options), expected)
    assert close(ours(squad, batch_size=8, **options), expected)


@pytest.mark.parametrize("options", [{}, {"handle_impossible_answer": True}, {"top_k": 3}], ids=str)
@pytest.mark.parametrize("context", [" ", " \n ", "x", " . "])
def test_contexts_of_few_tokens_or_none(context: str, options: dict[str, Any], pipes: Pipes) -> None:
    ours, theirs = pipes()
    assert close(
        ours(question=QUESTION, context=context, **options), theirs(question=QUESTION, context=context, **options)
    )


def test_equal_answers_of_several_parts_add_up(pipes: Pipes) -> None:
    ours, theirs = pipes()
    context = " ".join(["Berlin, berlin and BERLIN."] * 30)
    options = {"max_seq_len": 40, "doc_stride": 10, "top_k": 5}
    result = ours(question=QUESTION, context=context, **options)
    assert close(result, theirs(question=QUESTION, context=context, **options))
    assert len({answer["answer"].lower() for answer in result}) == len(result)


def test_the_limit_of_the_tokenizer(pipes: Pipes, squad: list[dict[str, str]]) -> None:
    ours, theirs = pipes(tokenizer={"model_max_length": 60})
    assert close(ours(**squad[0], top_k=3), theirs(**squad[0], top_k=3))


@pytest.mark.filterwarnings("ignore:Passing a list of SQuAD examples:FutureWarning")
def test_forms_of_the_input(pipes: Pipes) -> None:
    ours, theirs = pipes()
    example = {"question": QUESTION, "context": CONTEXT}
    forms: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), example),
        ((QUESTION, CONTEXT), {}),
        ((example,), {}),
        (([example],), {}),
        (([example, example],), {}),
        ((), {"question": [QUESTION], "context": CONTEXT}),
        ((), {"question": [QUESTION, "Who?"], "context": CONTEXT}),
        ((), {"question": [QUESTION, "Who?"], "context": [CONTEXT, "My name is Clara."]}),
    ]
    for arguments, keywords in forms:
        assert close(ours(*arguments, **keywords), theirs(*arguments, **keywords)), (arguments, keywords)
    streamed, expected = ((pipe(example for _ in range(2))) for pipe in (ours, theirs))
    assert close(list(streamed), list(expected))
    row_of_a_data_set = {"id": 1, **example, "answers": []}
    assert ours([row_of_a_data_set] * 2) == [ours(example)] * 2


@pytest.mark.filterwarnings("ignore:topk parameter is deprecated:UserWarning")
def test_topk(pipes: Pipes) -> None:
    ours, theirs = pipes()
    with pytest.warns(UserWarning, match="topk is deprecated: use top_k"):
        result = ours(question=QUESTION, context=CONTEXT, topk=2)
    assert close(result, theirs(question=QUESTION, context=CONTEXT, topk=2))


@pytest.mark.parametrize("variant", ["mt5", "umt5"])
def test_variants(variant: str, pipes: Pipes) -> None:
    ours, theirs = pipes(variant=variant, top_k=3)
    assert close(ours(question=QUESTION, context=CONTEXT), theirs(question=QUESTION, context=CONTEXT))


def test_a_tokenizer_that_pads_on_the_left(pipes: Pipes) -> None:
    """The question comes first all the same. (The reference turns the two around, and answers from the question.)"""
    left = pipes(tokenizer={"padding_side": "left"})[0]
    for options in ({}, {"batch_size": 4}):
        examples = [
            {"question": QUESTION, "context": CONTEXT},
            {"question": "Who?", "context": "Clara lives in Paris."},
        ]
        assert close(left(examples, **options), pipes()[0](examples))


# -- what it refuses


@pytest.mark.parametrize("example", [{"question": "", "context": CONTEXT}, {"question": QUESTION, "context": ""}])
def test_empty_texts(example: dict[str, str], pipes: Pipes) -> None:
    ours, theirs = pipes()
    with pytest.raises(ValueError, match=r"the (question|context) is empty"):
        ours(**example)
    with pytest.raises(ValueError, match="cannot be empty"):
        theirs(**example)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be a positive integer, got 0"),
        ({"max_answer_len": 0}, "max_answer_len must be a positive integer, got 0"),
        ({"doc_stride": 500}, "doc_stride must be from 0 to max_seq_len, 384; got 500"),
        ({"max_seq_len": 5}, "cannot encode|no room"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, pipes: Pipes) -> None:
    ours, _ = pipes()
    with pytest.raises(ValueError, match=message):
        ours(question=QUESTION, context=CONTEXT, **options)


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {}),
        ((), {"question": QUESTION}),
        ((), {"context": CONTEXT}),
        ((3,), {}),
        (({"question": QUESTION},), {}),
        (([{"question": QUESTION, "context": CONTEXT}, 3],), {}),
        (({"question": QUESTION, "context": None},), {}),
        ((), {"question": [QUESTION], "context": [CONTEXT, CONTEXT]}),
        (({"question": QUESTION, "context": CONTEXT},), {"context": CONTEXT}),
    ],
)
def test_what_is_no_question(arguments: Any, keywords: Any, pipes: Pipes) -> None:
    with pytest.raises(ValueError, match=r"question|context"):
        pipes()[0](*arguments, **keywords)


def test_slow_tokenizers(pipes: Pipes) -> None:
    """They know no offsets. (The reference wants a classification token that T5 does not have.)"""
    with pytest.raises(ValueError, match="question answering needs a fast tokenizer"):
        pipes(fast=False)


def test_unknown_options(pipes: Pipes) -> None:
    """The reference ignores them."""
    with pytest.raises(TypeError, match="nonsense"):
        pipes()[0](question=QUESTION, context=CONTEXT, nonsense=1)
