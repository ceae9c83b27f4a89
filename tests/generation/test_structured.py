"""`generate(constraint=...)`: whatever the strategy, every result is one that the constraint allows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import quintet

from ..model.reference import make_batch, shared_pair

STRATEGIES = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 3, "num_return_sequences": 4, "temperature": 3.0},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 3, "do_sample": True, "seed": 4},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "no cache": {"use_cache": False},
}
TEXTS = ["What color is the sky?", "Is fire hot or cold?", "translate English to German: We have two dogs."]


@pytest.fixture(scope="module")
def model(shared: Path) -> Any:
    folder = shared / "models" / "flan-t5-small-title"
    return quintet.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module", params=["T5Tokenizer", "T5TokenizerFast"])
def tokenizer(shared: Path, request: pytest.FixtureRequest) -> Any:
    return getattr(quintet, request.param).from_pretrained(shared / "models" / "flan-t5-small-title")


def generate(model: Any, tokenizer: Any, strategy: str, constraint: Any, max_new_tokens: int = 24) -> list[str]:
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    options = {**STRATEGIES[strategy], "constraint": constraint, "tokenizer": tokenizer}
    sequences = model.generate(**batch, **options, max_new_tokens=max_new_tokens)
    return tokenizer.batch_decode(sequences, skip_special_tokens=True)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_answers(model: Any, tokenizer: Any, strategy: str) -> None:
    labels = ["red", "blue", "hot", "cold", "cold as ice", "Wir haben zwei Hunde."]
    texts = generate(model, tokenizer, strategy, labels)
    assert set(texts) <= set(labels)
    if strategy == "greedy":
        assert texts == ["blue", "hot", "Wir haben zwei Hunde."]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_regular_expression(model: Any, tokenizer: Any, strategy: str) -> None:
    pattern = re.compile(r"(yes|no), [0-9]{1,3} (cats|dogs)[.!]?")
    for text in generate(model, tokenizer, strategy, pattern):
        assert pattern.fullmatch(text), text


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_schema(model: Any, tokenizer: Any, strategy: str) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2, 30]}, "minItems": 1, "maxItems": 3}
    for text in generate(model, tokenizer, strategy, schema):
        assert set(json.loads(text)) <= {1, 2, 30}
        assert 1 <= len(json.loads(text)) <= 3


@pytest.mark.parametrize("strategy", ["greedy", "beams"])
def test_objects_with_a_vocabulary_of_bytes(strategy: str) -> None:
    """T5's vocabulary has no braces; ByT5's has every byte."""
    tokenizer = quintet.ByT5Tokenizer()
    torch.manual_seed(0)
    config = quintet.T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = quintet.T5ForConditionalGeneration(config).eval()
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 22]}}}
    schema |= {"required": ["ok", "n"], "additionalProperties": False}
    options = {**STRATEGIES[strategy], "tokenizer": tokenizer, "max_new_tokens": 60}
    ids = torch.tensor([[70, 71, 1], [80, 81, 1]])
    for text in tokenizer.batch_decode(model.generate(ids, constraint=schema, **options), skip_special_tokens=True):
        found = json.loads(text)
        assert found.keys() == {"ok", "n"}
        assert isinstance(found["ok"], bool)
        assert found["n"] in (1, 22)


def test_answers_as_ids_need_no_tokenizer() -> None:
    model = shared_pair("ForConditionalGeneration", "v1.1", "sdpa").ours
    answers = [[5, 6], [5, 6, 7], [40]]
    for options in STRATEGIES.values():
        for row in model.generate(**make_batch("EncoderModel"), constraint=answers, max_new_tokens=5, **options):
            tokens = row[1:].tolist()
            assert tokens[: tokens.index(1)] in answers


def test_drafts_do_not_change_constrained_tokens(model: Any, tokenizer: Any) -> None:
    expression = r"(yes|no|maybe)( indeed)*"
    assert generate(model, tokenizer, "lookup", expression) == generate(model, tokenizer, "greedy", expression)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ([], "answer"),
        (["{x}"], "[{}]"),
        (["a " * 40 + "a"], "max_length"),
        ("[0-9", "not a regular expression"),
        ("a{100}", "row 0"),
        ({"type": "object"}, "lacks"),
        (7, "constraint must be"),
    ],
)
def test_what_cannot_be_is_refused(model: Any, tokenizer: Any, constraint: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, tokenizer, "greedy", constraint, max_new_tokens=12)
    assert generate(model, tokenizer, "greedy", ["blue"]) == ["blue"] * 3


def test_texts_need_the_tokenizer(model: Any) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        model.generate(torch.tensor([[5, 1]]), constraint=["blue"])
