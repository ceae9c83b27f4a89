"""From a tokenizer's files to the arguments of its class.

The layout is the reference's: tokenizer_config.json holds the arguments and the added tokens. Older tokenizers have
the added tokens elsewhere: in special_tokens_map.json, added_tokens.json and tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from quintet.files import read_json
from quintet.hub import Source
from quintet.tokenizers.checks import check_ids, check_values, describes_token

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TOKENIZER_FILE = "tokenizer.json"

# Where files lay on the machine that saved a tokenizer, and what is not an argument of its class.
_SAVED_PATHS = ("vocab_file", "tokenizer_file", "special_tokens_map_file", "name_or_path")
NOT_ARGUMENTS = (*_SAVED_PATHS, "tokenizer_class", "auto_map")


def read_config(source: Source) -> dict[str, Any]:
    """What tokenizer_config.json says; nothing if there is none. ValueError for a value that no tokenizer can have."""
    config = _read(source, CONFIG_FILE) or {}
    check_values(CONFIG_FILE, config)
    return config


def read_arguments(
    source: Source, config: Mapping[str, Any], overrides: Mapping[str, Any], named_tokens: Sequence[str]
) -> dict[str, Any]:
    """Arguments for a tokenizer's class: those saved, the caller's `overrides` over them, and `added_tokens_decoder`.

    `named_tokens` are the arguments that are special tokens: they take the flags of the added tokens of their name.
    Raises ValueError for a file that is not valid JSON or an added token that is not described by one.
    """
    arguments = {name: value for name, value in config.items() if name not in NOT_ARGUMENTS} | dict(overrides)
    if "added_tokens_decoder" in arguments:
        saved = arguments.pop("added_tokens_decoder")
        added = {int(token_id): as_added_token(token) for token_id, token in saved.items()}
    else:
        arguments |= _legacy_special_tokens(source, arguments, overrides)
        added = _legacy_added_tokens(source, arguments, named_tokens)
    arguments = {name: _with_added_tokens(value) for name, value in arguments.items()}
    by_content = {token.content: token for token in added.values()}
    for name in named_tokens:
        token = arguments.get(name)
        if token is not None and not isinstance(token, list):
            arguments[name] = by_content.get(str(token), token)
    return {**arguments, "added_tokens_decoder": added}


def write_json(path: Path, content: Any) -> None:
    """Write a file as the reference does, so that the two differ only in what they mean."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def as_added_token(saved: Any) -> AddedToken:
    """The added token that a file describes by a dictionary. Raises ValueError if it does not."""
    if isinstance(saved, AddedToken):
        return saved
    try:
        return AddedToken(**{name: value for name, value in saved.items() if name != "__type"})
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not the description of an added token: {saved!r:.80} ({error})") from error


def _with_added_tokens(value: Any) -> Any:
    """`value` with AddedToken objects for the dictionaries in it that describe one."""
    if isinstance(value, list):
        return [_with_added_tokens(item) for item in value]
    return as_added_token(value) if describes_token(value) else value


def _legacy_special_tokens(
    source: Source, arguments: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Special tokens from special_tokens_map.json, except those that the caller overrides."""
    saved = {name: _as_special(value) for name, value in (_read(source, SPECIAL_TOKENS_FILE) or {}).items()}
    check_values(SPECIAL_TOKENS_FILE, saved)
    name = "additional_special_tokens"
    if name in saved:
        listed = list(arguments.get(name) or [])
        saved[name] = listed + [token for token in saved[name] or [] if token not in listed]
    return {name: token for name, token in saved.items() if not overrides.get(name)}


def _legacy_added_tokens(
    source: Source, arguments: Mapping[str, Any], named_tokens: Sequence[str]
) -> dict[int, AddedToken]:
    """Added tokens from added_tokens.json, then from tokenizer.json."""
    special: set[str] = set()
    for name in named_tokens:
        value = arguments.get(name) or []
        special |= {str(token) for token in (value if isinstance(value, list) else [value])}
    ids = _read(source, ADDED_TOKENS_FILE) or {}
    check_ids(ADDED_TOKENS_FILE, ids)
    added = {
        token_id: AddedToken(token, normalized=token not in special, special=token in special)
        for token, token_id in ids.items()
    }
    for entry in (_read(source, TOKENIZER_FILE) or {}).get("added_tokens", []):
        token_id = entry.pop("id")
        added[token_id] = as_added_token(entry)
    return added


def _as_special(value: Any) -> Any:
    """`value` with special added tokens for the dictionaries in it."""
    if isinstance(value, list):
        return [_as_special(item) for item in value]
    return as_added_token({**value, "special": True}) if isinstance(value, dict) else value


def _read(source: Source, filename: str) -> dict[str, Any] | None:
    path = source.find(filename)
    return None if path is None else read_json(path)
