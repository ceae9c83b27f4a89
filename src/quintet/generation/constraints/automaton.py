"""Regular expressions and JSON schemas: what the automata of the `llguidance` library say may follow.

The library works on bytes and on the tokens' own texts, so it fits encoder-decoders like any other model. It does not
say how far a text is from being complete, nor whether the characters that must come can be written.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from quintet.generation.constraints.expressions import character_set
from quintet.generation.constraints.vocabulary import Vocabulary

# Without this, the library would force one way to cut what must come into tokens: its own, not the tokenizer's.
_HEADER = '%llguidance {"no_forcing": true}\n'
_LIMITS = {"initial_lexer_fuel": 10_000_000, "step_lexer_fuel": 2_000_000}
"""Ten times the library's own: a step of a complicated expression may take 0.1 s before it is given up."""
_DEAD_END = "NoExtensionBias"  # the error that means no more than that nothing can follow
_ANY_TEXT = "/(?s:.)*/"
_SPACES = [character for character in map(chr, range(0x3001)) if character.isspace()]
_CLEANED_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Where `clean_up_tokenization_spaces` would change a text: it takes out these spaces."""
_JSON_STYLE = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}
"""Both of json.dumps's: compact, and with a space after separators. Free white space might go on without an end."""


class AutomatonState:
    """How far a text has come, as one or several automata see it that must all agree; see `State`."""

    def __init__(self, matchers: Sequence[Any], vocabulary: Vocabulary, eos_token_ids: Sequence[int]) -> None:
        self._matchers, self._vocabulary, self._ends = matchers, vocabulary, eos_token_ids

    @cached_property
    def complete(self) -> bool:
        """Whether the text is one that the constraint asks for."""
        return all(matcher.is_accepting() for matcher in self._matchers)

    @cached_property
    def forbidden(self) -> torch.Tensor:
        """Which tokens (vocabulary,) cannot follow."""
        bits = np.bitwise_and.reduce([_mask(matcher) for matcher in self._matchers])
        allowed = np.unpackbits(bits, count=len(self._vocabulary.texts), bitorder="little")
        allowed[list(self._ends)] = self.complete
        return torch.from_numpy(allowed == 0)

    def advance(self, token: int) -> AutomatonState | None:
        """The state after one more token; None if it cannot follow."""
        if not self._vocabulary.texts[token]:
            return None
        matchers = [matcher.deep_copy() for matcher in self._matchers]
        if not all(matcher.consume_token(token) for matcher in matchers):
            return None
        return AutomatonState(matchers, self._vocabulary, self._ends)


def expression_state(
    expression: str, vocabulary: Vocabulary, eos_token_ids: Sequence[int], cleans_up: bool
) -> AutomatonState:
    """The start for an expression in the library's syntax.

    `cleans_up` says that results are decoded with clean_up_tokenization_spaces: texts that this would change are out,
    as are those that decoding would trim.
    """
    conditions = [f"/{expression}/"]
    if vocabulary.trimmed:
        ink = character_set(zip(_SPACES, _SPACES, strict=True), negated=True)
        conditions.append(f"/({ink}((?s:.)*{ink})?)?/")
    if cleans_up:
        conditions.append(_not_cleaned_up())
    names = [f"CONDITION_{place}" for place in range(len(conditions))]
    rules = [f"start: TEXT\nTEXT: {_opening(vocabulary)} BODY\nBODY: {' & '.join(names)}"]
    rules += [f"{name}: {condition}" for name, condition in zip(names, conditions, strict=True)]
    return _state(["\n".join(rules)], vocabulary, eos_token_ids)


def schema_state(
    schema: Mapping[str, Any], vocabulary: Vocabulary, eos_token_ids: Sequence[int], cleans_up: bool
) -> AutomatonState:
    """The start for a JSON schema. The key "x-guidance" of a schema may set the library's own options.

    Raises ValueError if the library cannot follow the schema.
    """
    styled = {**schema, "x-guidance": {**_JSON_STYLE, **schema.get("x-guidance", {})}}
    grammars = [f"start: {_opening(vocabulary)} body\nbody: %json {json.dumps(styled)}"]
    if cleans_up:
        grammars.append(f"start: TEXT\nTEXT: {_not_cleaned_up()}")
    return _state(grammars, vocabulary, eos_token_ids)


def library() -> Any:
    """The llguidance package. Raises ImportError, saying how to install it."""
    try:
        return importlib.import_module("llguidance")
    except ImportError as error:
        raise ImportError(
            'a regular expression or a JSON schema as constraint needs llguidance: pip install "quintet[structured]"'
        ) from error


def _opening(vocabulary: Vocabulary) -> str:
    return f"/{vocabulary.dropped}?/" if vocabulary.dropped else ""


def _not_cleaned_up() -> str:
    changed = "|".join("".join(f"\\x{{{ord(character):X}}}" for character in text) for text in _CLEANED_UP)
    return f"{_ANY_TEXT} & ~/(?s:.)*({changed})(?s:.)*/"


def _mask(matcher: Any) -> np.ndarray:
    """Which tokens an automaton takes next, one bit for each; the end token's bit says nothing."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    if matcher.is_error() and not matcher.get_error().startswith(_DEAD_END):
        raise ValueError(f"llguidance cannot follow the constraint any further: {_reason(matcher)}")
    return bits


def _reason(matcher: Any) -> str:
    return matcher.get_error().partition("\n")[0]  # the library's own state follows


def _state(grammars: list[str], vocabulary: Vocabulary, eos_token_ids: Sequence[int]) -> AutomatonState:
    tokens = _tokens_of(vocabulary, eos_token_ids[0])
    limits = library().LLParserLimits(**_LIMITS)
    matchers = [library().LLMatcher(tokens, _HEADER + grammar, log_level=0, limits=limits) for grammar in grammars]
    for matcher in matchers:
        if matcher.is_error():
            raise ValueError(f"the constraint is not one that llguidance can follow: {_reason(matcher)}")
    return AutomatonState(matchers, vocabulary, eos_token_ids)


_TOKENS: WeakKeyDictionary[Vocabulary, Any] = WeakKeyDictionary()


def _tokens_of(vocabulary: Vocabulary, end: int) -> Any:
    """A vocabulary in the library's own form, built once."""
    if vocabulary not in _TOKENS:
        wrapped = library().TokenizerWrapper(_Tokens(vocabulary, end))
        _TOKENS[vocabulary] = library().LLTokenizer(wrapped)
    return _TOKENS[vocabulary]


class _Tokens:
    """What the library wants to know of a tokenizer. It does not cut texts into tokens where nothing is forced."""

    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, vocabulary: Vocabulary, end: int) -> None:
        self.tokens, self.eos_token_id = vocabulary.texts, end

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError("nothing is forced, so nothing needs to be cut into tokens")
