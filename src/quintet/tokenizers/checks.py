"""What values a tokenizer's files may have. Each refusal names the file, the key, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import AddedToken

from quintet.tokenizers.special_tokens import SpecialTokens


def check_values(filename: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first value of a file that no tokenizer can be built from."""
    for key, value in values.items():
        if key in _RULES and not _RULES[key][0](value):
            raise ValueError(f"{filename}: {key} must be {_RULES[key][1]}, got {value!r:.80}")


def check_ids(filename: str, ids: Mapping[str, Any]) -> None:
    """Raise ValueError for the first token of a file whose id is none."""
    for token, token_id in ids.items():
        if not _is_count(token_id):
            raise ValueError(f"{filename}: the id of {token!r} must be an integer of at least 0, got {token_id!r:.80}")


def describes_token(value: Any) -> bool:
    """Whether a value is a dictionary that stands for an added token."""
    return isinstance(value, dict) and (value.get("__type") == "AddedToken" or {"content", "lstrip"} <= value.keys())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_token(value: Any) -> bool:
    return isinstance(value, (str, AddedToken)) or describes_token(value)


def _is_decoder(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() for key in value)


def _are_named_tokens(value: Any) -> bool:
    """An empty list too, as transformers 5 writes where there are none."""
    return value == [] or (isinstance(value, dict) and all(map(_is_token, value.values())))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _or_null(fits: Callable[[Any], bool], allowed: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value is None or fits(value), f"{allowed}, or null"


_TOKEN = _or_null(_is_token, "a token (a text, or the description of an added token)")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(SpecialTokens.SPECIAL_TOKENS_ATTRIBUTES, _TOKEN),
    "additional_special_tokens": _or_null(
        lambda value: isinstance(value, list) and all(map(_is_token, value)), "a list of tokens"
    ),
    "added_tokens_decoder": (_is_decoder, "a dictionary of ids and their tokens"),
    "extra_ids": (_is_count, "an integer of at least 0"),
    "extra_special_tokens": _or_null(_are_named_tokens, "a dictionary of names and their tokens"),
    "init_inputs": (lambda value: isinstance(value, list), "a list"),
    "model_input_names": (_are_names, "a list of names, at least one"),
    "sp_model_kwargs": _or_null(lambda value: isinstance(value, dict), "a dictionary"),
    "split_special_tokens": (lambda value: isinstance(value, bool), "true or false"),
    "tokenizer_class": _or_null(lambda value: isinstance(value, str), "the name of a class"),
}
