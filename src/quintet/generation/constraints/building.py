"""From what `generate(constraint=...)` is given to the processor that holds results to it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from quintet.generation.constraints import automaton
from quintet.generation.constraints.answers import MORE_CHARACTERS, read_answers
from quintet.generation.constraints.expressions import Unwritable, translate
from quintet.generation.constraints.processor import Constraint, State
from quintet.generation.constraints.trie import build_trie
from quintet.generation.constraints.vocabulary import Vocabulary, vocabulary_of

_KINDS = (
    "a list of answers (texts, or lists of token ids), a regular expression (str or re.Pattern), or a JSON schema (a "
    "dict, or a class with model_json_schema())"
)


def build_constraint(
    spec: Any,
    *,
    tokenizer: Any,
    eos_token_ids: Sequence[int],
    vocab_size: int,
    prefix_length: int,
    max_length: int,
    rows_per_source: int = 1,
) -> Constraint:
    """The processor for a constraint on what a model writes, which must then end.

    spec is a list, tuple or set of answers: texts, or token ids; a regular expression that the whole text matches, a
    str or re.Pattern with Python's meaning; or a JSON schema: a dict, or a class that has one as pydantic models do.
    A text is what `tokenizer.decode(ids, skip_special_tokens=True)` returns. vocab_size is the number of scores,
    prefix_length the length of the targets that decoding starts with, max_length that of the longest, and
    rows_per_source the number of beams.

    Raises ValueError for a spec of another kind, and for one that the vocabulary cannot write or that does not fit
    into max_length, as far as that can be known now; ImportError without the library that expressions and schemas
    need.
    """
    if not eos_token_ids:
        raise ValueError("constraint needs an end token, eos_token_id: a result must end where it is complete")
    ends = list(eos_token_ids)
    hint = ""
    if isinstance(spec, (list, tuple, set, frozenset)):
        room = max_length - prefix_length
        start: State = build_trie(read_answers(spec, tokenizer, ends, vocab_size, room), ends, vocab_size)
    else:
        start, hint = _automaton(spec, tokenizer, ends, vocab_size)
    return Constraint(
        start,
        eos_token_ids=ends,
        vocab_size=vocab_size,
        prefix_length=prefix_length,
        max_length=max_length,
        rows_per_source=rows_per_source,
        describe=str if tokenizer is None else partial(_describe, tokenizer),
        hint=hint,
    )


def _describe(tokenizer: Any, tokens: list[int]) -> str:
    known = [token for token in tokens if token < len(tokenizer)]
    return repr(tokenizer.decode(known, skip_special_tokens=True))


def _automaton(spec: Any, tokenizer: Any, ends: list[int], vocab_size: int) -> tuple[State, str]:
    """The start for an expression or a schema, and what to say if a result gets stuck."""
    if isinstance(spec, type) and hasattr(spec, "model_json_schema"):
        spec = spec.model_json_schema()
    if not isinstance(spec, (str, re.Pattern, Mapping)):
        raise ValueError(f"constraint must be {_KINDS}, got {spec!r}")
    if tokenizer is None:
        raise ValueError("a regular expression or a JSON schema as constraint needs the tokenizer")
    automaton.library()
    vocabulary = vocabulary_of(tokenizer, vocab_size, ends)
    cleans_up = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
    hint = _hint(vocabulary, cleans_up)
    if isinstance(spec, Mapping):
        start = automaton.schema_state(spec, vocabulary, ends, cleans_up)
        if _is_dead_end(start):
            raise ValueError(f"nothing that the vocabulary can write fits the JSON schema. {hint}")
        return start, hint
    expression = _expression(spec, vocabulary)
    start = automaton.expression_state(expression, vocabulary, ends, cleans_up)
    if _is_dead_end(start):
        raise ValueError(
            f"nothing that decoding would leave as it is matches the regular expression {spec!r}: it takes out white "
            "space at the ends" + (" and before punctuation (clean_up_tokenization_spaces)" if cleans_up else "")
        )
    return start, hint


def _hint(vocabulary: Vocabulary, cleans_up: bool) -> str:
    lacking = ", ".join(vocabulary.lacking())
    hints = [f"The vocabulary lacks {lacking}. {MORE_CHARACTERS}"] if lacking else []
    hints += ["Decoding takes out spaces before punctuation (clean_up_tokenization_spaces)"] if cleans_up else []
    return ". ".join(hints)


def _is_dead_end(state: State, depth: int = 3) -> bool:
    """Whether no text comes from here, as far as a look at a few tokens shows: `[{` without a `{`, for example."""
    if state.complete:
        return False
    allowed = (~state.forbidden).nonzero().flatten().tolist()
    if (depth == 0 and allowed) or len(allowed) > 16:
        return False
    followers = (state.advance(token) for token in allowed)
    return all(after is None or _is_dead_end(after, depth - 1) for after in followers)


def _expression(spec: str | re.Pattern[Any], vocabulary: Vocabulary) -> str:
    """A regular expression in the library's syntax, as far as the vocabulary can write it."""
    try:
        pattern = re.compile(spec)
    except re.error as error:
        raise ValueError(f"constraint {spec!r} is not a regular expression: {error}") from error
    if isinstance(pattern.pattern, bytes):
        raise ValueError(f"constraint {pattern.pattern!r} matches bytes: a regular expression for texts is needed")
    try:
        return translate(pattern, vocabulary.alphabet)
    except Unwritable as error:
        raise ValueError(
            f"nothing that the vocabulary can write matches the regular expression {pattern.pattern!r}: it lacks "
            f"{error}. {MORE_CHARACTERS}"
        ) from error
