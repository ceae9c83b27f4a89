"""Whole results of calls with options drawn at random: every key and value as the reference gives it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from .oracle import Pair, byt5_pair, load_pair, plain, quietly

TEXTS = [
    "", "a", "word", "Hello world", "<extra_id_0>. Hi", "  spaced   out ", "Das Haus ist wunderbar.", "été 日本",
    "x <pad> y", "The quick brown fox jumps over the lazy dog, again and again.",
]  # fmt: skip
OPTIONS: dict[str, tuple[float, list[Any]]] = {
    "padding": (0.6, [True, False, "longest", "max_length", "do_not_pad"]),
    "truncation": (0.6, [True, False, "longest_first", "only_first", "only_second", "do_not_truncate"]),
    "max_length": (0.6, [2, 3, 5, 8, 12, 16, 40]),
    "stride": (0.2, [0, 1, 2]),
    "pad_to_multiple_of": (0.2, [4, 8]),
    "padding_side": (0.3, ["left", "right"]),
    "return_tensors": (0.25, ["pt", "np"]),
    "return_attention_mask": (0.2, [True, False]),
    "return_token_type_ids": (0.2, [True, False]),
    "return_special_tokens_mask": (0.3, [True]),
    "return_length": (0.2, [True]),
    "return_overflowing_tokens": (0.2, [True]),
    "add_special_tokens": (0.15, [False]),
}


def draw_call(choose: random.Random, is_fast: bool) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a call: a text or a batch, alone or with pairs, as text or as words."""
    words = choose.random() < 0.2

    def text() -> Any:
        return choose.choice(TEXTS[1:]).split() if words else choose.choice(TEXTS)

    rows = choose.randint(1, 4)
    is_batch = choose.random() < 0.6
    count = 2 if choose.random() < 0.35 else 1
    arguments = [[text() for _ in range(rows)] if is_batch else text() for _ in range(count)]
    chosen = {name: choose.choice(values) for name, (chance, values) in OPTIONS.items() if choose.random() < chance}
    if words:
        chosen["is_split_into_words"] = True
    if choose.random() < 0.2:
        chosen["text_target"] = arguments[0]
    if is_fast:
        chosen["return_offsets_mapping"] = choose.random() < 0.5
        chosen["split_special_tokens"] = choose.random() < 0.1
    return arguments, chosen


def outcome(function: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    try:
        return plain(quietly(function, *arguments, **options))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the backend of fast tokenizers raises plain Exception, or panics
        return error


def exceeds_limit(result: Any, limit: int | None) -> bool:
    """Whether a row is longer than the limit, though it was to be cut."""
    if limit is None or not isinstance(result, dict):
        return False
    ids = result["input_ids"][-1] if isinstance(result["input_ids"], tuple) else result["input_ids"]
    return any(len(row) > limit for row in (ids if ids and isinstance(ids[0], list) else [ids]))


def is_bug_of_reference(options: dict[str, Any], theirs: Any, ours: Any) -> bool:
    """What test_differences.py covers one by one."""
    if isinstance(theirs, TypeError) and options.get("return_overflowing_tokens"):
        return isinstance(ours, dict)  # it computes with max_length=None
    loses_rows = options.get("return_tensors") == "pt" and isinstance(ours, ValueError) and isinstance(theirs, dict)
    if loses_rows and any(value[1] is None for value in theirs.values() if isinstance(value, tuple)):
        return True  # [[], [1]] becomes a tensor without the 1
    if exceeds_limit(theirs, options.get("max_length")):
        return isinstance(ours, ValueError) or not exceeds_limit(ours, options["max_length"])
    unpadded = isinstance(theirs, dict) and theirs.get("input_ids") == []
    return unpadded and options.get("padding") == "max_length"


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast", "ByT5Tokenizer"])
def test_drawn_calls(name: str, legacy: bool, t5_folder: Path) -> None:
    pair = byt5_pair() if name == "ByT5Tokenizer" else load_pair(name, t5_folder, legacy=legacy)
    choose = random.Random(f"{name}{legacy}")
    same = refused = 0
    for _ in range(900):
        arguments, options = draw_call(choose, pair.ours.is_fast)
        side = choose.choice(["left", "right"])
        pair.theirs.truncation_side = pair.ours.truncation_side = side
        theirs, ours = (outcome(tokenizer, arguments, options) for tokenizer in pair)
        if isinstance(theirs, BaseException) and isinstance(ours, ValueError):
            refused += 1
        elif isinstance(theirs, dict) and theirs == ours:
            same += 1
        else:
            assert is_bug_of_reference(options, theirs, ours), (side, arguments, options, theirs, ours)
    pair.theirs.truncation_side = pair.ours.truncation_side = "right"
    assert same > 600
    assert refused > 0


@pytest.mark.parametrize("method", ["encode", "encode_plus", "batch_encode_plus", "tokenize"])
def test_other_doors(method: str, t5: Pair) -> None:
    calls: dict[str, list[tuple[list[Any], dict[str, Any]]]] = {
        "encode": [
            (["Hello world"], {}),
            (["Hello world", "pair"], {}),
            (["Hello world", None, False], {}),
            (["Hello world"], {"return_tensors": "pt"}),
            (["Hello big world"], {"max_length": 3}),
            (["Hello big world"], {"padding": "max_length", "max_length": 9, "truncation": True}),
        ],
        "encode_plus": [(["Hello", "you"], {"return_token_type_ids": True}), (["Hi"], {"return_tensors": "np"})],
        "batch_encode_plus": [
            ([["Hello", "you"]], {"padding": True}),
            ([[("Hello", "you"), ("a", "b")]], {"return_special_tokens_mask": True}),
        ],
        "tokenize": [(["Hello <extra_id_0>. you"], {})],
    }
    for arguments, options in calls[method]:
        theirs = quietly(getattr(t5.theirs, method), *arguments, **options)
        ours = getattr(t5.ours, method)(*arguments, **options)
        if method.endswith("plus"):
            theirs, ours = plain(theirs), plain(ours)
        if hasattr(theirs, "tolist"):
            theirs, ours = theirs.tolist(), ours.tolist()
        assert ours == theirs


def test_ids_and_tokens_as_input(slow: Pair) -> None:
    """The Python tokenizers also take what tokenize() and convert_tokens_to_ids() return."""
    tokens = slow.ours.tokenize("Hello world <extra_id_3>")
    ids = slow.ours.convert_tokens_to_ids(tokens)
    for given in (tokens, ids, tuple(ids)):
        assert slow.ours.encode(given) == slow.theirs.encode(list(given)) == [*ids, 1]
    assert plain(slow.ours.prepare_for_model(ids, [5, 6], return_token_type_ids=True, max_length=6)) == plain(
        quietly(slow.theirs.prepare_for_model, ids, [5, 6], return_token_type_ids=True, max_length=6)
    )


def test_limit_of_the_model(t5: Pair) -> None:
    """Without max_length, the model's own limit is padded and cut to."""
    text = "word " * 600
    for options in ({"truncation": True}, {"padding": "max_length"}, {"padding": "max_length", "truncation": True}):
        ours = t5.ours(text, **options)
        assert dict(ours) == dict(quietly(t5.theirs, text, **options))
    assert len(ours["input_ids"]) == 512
    assert len(t5.ours(text)["input_ids"]) == 601  # longer than the limit, and nothing is said about it


@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast"])
def test_no_limit_at_all(name: str, t5_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = load_pair(name, t5_folder, model_max_length=int(1e30)).ours
    ids = ours(["word word", "word"], padding="max_length", truncation=True)["input_ids"]
    assert ids == [[1448, 1448, 1], [1448, 1]]
    assert "no limit" in caplog.text


def test_strategies_of_the_reference(t5: Pair) -> None:
    """Its enumerations are taken for what they say."""
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils import PaddingStrategy, TensorType

    ours = t5.ours(
        ["Hello big world", "a"],
        padding=PaddingStrategy.MAX_LENGTH,
        truncation=TruncationStrategy.LONGEST_FIRST,
        max_length=3,
        return_tensors=TensorType.PYTORCH,
    )
    assert ours.input_ids.shape == (2, 3)


def test_max_length_that_padding_ignores_is_mentioned(t5: Pair) -> None:
    with pytest.warns(UserWarning, match="max_length has no effect"):
        t5.ours(["a", "b c"], padding=True, max_length=5, truncation=False)
