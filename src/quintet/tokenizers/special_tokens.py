"""The named special tokens of a tokenizer (eos, pad, ...) and how tokens are added to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from tokenizers import AddedToken


class _Token:
    """`tokenizer.eos_token`: a string or None; assignable with a string, an AddedToken or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: SpecialTokens | None, owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer._special_tokens_map[self.name]
        return None if token is None else str(token)

    def __set__(self, tokenizer: SpecialTokens, token: str | AddedToken | None) -> None:
        tokenizer._set_special_token(self.name, token)


class _TokenId:
    """`tokenizer.eos_token_id`: an id or None; assigning an id names the token that has it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.token_name = name.removesuffix("_id")

    def __get__(self, tokenizer: SpecialTokens | None, owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer._special_tokens_map[self.token_name]
        return None if token is None else tokenizer.convert_tokens_to_ids(str(token))

    def __set__(self, tokenizer: SpecialTokens, token_id: int | None) -> None:
        token = None if token_id is None else tokenizer.convert_ids_to_tokens(token_id)
        tokenizer._set_special_token(self.token_name, token)


class SpecialTokens:
    """Named special tokens, and the lists and maps of them."""

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[list[str]] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
        "additional_special_tokens",
    ]

    bos_token, bos_token_id = _Token(), _TokenId()
    eos_token, eos_token_id = _Token(), _TokenId()
    unk_token, unk_token_id = _Token(), _TokenId()
    sep_token, sep_token_id = _Token(), _TokenId()
    pad_token, pad_token_id = _Token(), _TokenId()
    cls_token, cls_token_id = _Token(), _TokenId()
    mask_token, mask_token_id = _Token(), _TokenId()

    def __init__(self, tokens: Mapping[str, Any], extra_special_tokens: Mapping[str, str | AddedToken]) -> None:
        self._special_tokens_map: dict[str, Any] = dict.fromkeys(self.SPECIAL_TOKENS_ATTRIBUTES)
        self._special_tokens_map["additional_special_tokens"] = []
        self.extra_special_tokens = dict(extra_special_tokens)
        for name, token in self.extra_special_tokens.items():
            self._special_tokens_map[name] = _checked(name, token)
        for name in self.SPECIAL_TOKENS_ATTRIBUTES:
            if tokens.get(name) is not None:
                setattr(self, name, tokens[name])

    def __getattr__(self, name: str) -> Any:
        """Tokens of names of a checkpoint's own (`extra_special_tokens`), and their ids."""
        extra = self.__dict__.get("extra_special_tokens", {})
        if name in extra:
            return str(extra[name])
        if name.removesuffix("_id") in extra:
            return self.convert_tokens_to_ids(str(extra[name.removesuffix("_id")]))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a name of their own: for T5 the sentinels."""
        return [str(token) for token in self._special_tokens_map["additional_special_tokens"]]

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        self._set_additional_special_tokens(tokens)

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Ids of `additional_special_tokens`."""
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, ids: Sequence[int]) -> None:
        self._set_additional_special_tokens(self.convert_ids_to_tokens(ids))

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Every special token that is set, by name."""
        return {
            name: [str(token) for token in value] if isinstance(value, list) else str(value)
            for name, value in self.special_tokens_map_extended.items()
        }

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        """Like `special_tokens_map`, with AddedToken objects where those were given."""
        return {name: value for name, value in self._special_tokens_map.items() if value}

    @property
    def all_special_tokens_extended(self) -> list[str | AddedToken]:
        """Every special token once, with AddedToken objects where those were given."""
        unique: dict[str, str | AddedToken] = {}
        for value in self.special_tokens_map_extended.values():
            for token in value if isinstance(value, list) else [value]:
                unique.setdefault(str(token), token)
        return list(unique.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once."""
        return list(self._special_token_set)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True
    ) -> int:
        """Name special tokens and add those that the vocabulary lacks; returns how many were added.

        Keys are those of SPECIAL_TOKENS_ATTRIBUTES; "additional_special_tokens" takes a list, which replaces the
        present one or extends it. A model's embedding must be resized for new tokens.
        """
        added: list[str | AddedToken] = []
        for name, value in special_tokens_dict.items():
            if name not in self.SPECIAL_TOKENS_ATTRIBUTES:
                allowed = ", ".join(self.SPECIAL_TOKENS_ATTRIBUTES)
                raise ValueError(f"{name!r} is not the name of a special token. Allowed: {allowed}.")
            if name == "additional_special_tokens":
                added += self._add_additional(value, replace_additional_special_tokens)
                continue
            token = self._as_special(_checked(name, value))
            setattr(self, name, token)
            if token not in added:
                added.append(token)
        return self.add_tokens(added, special_tokens=True)

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens that are matched whole in texts; returns how many of them the vocabulary lacked.

        New ones get the next free ids. AddedToken says how a token is matched (single_word, lstrip, rstrip,
        normalized). Raises TypeError for anything but str and AddedToken.
        """
        if not new_tokens:
            return 0
        tokens = list(new_tokens) if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        for token in tokens:
            if not isinstance(token, (str, AddedToken)):
                raise TypeError(f"a token must be a str or an AddedToken, got {type(token).__name__}: {token!r}")
        added = self._add_tokens(tokens, special_tokens)
        self._forget()
        return added

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """See the tokenizer's base class."""
        raise NotImplementedError

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """See the tokenizer's base class."""
        raise NotImplementedError

    def _add_tokens(self, tokens: list[Any], special_tokens: bool) -> int:
        raise NotImplementedError

    def _as_special(self, token: str | AddedToken) -> AddedToken:
        return with_special(token, True)

    @cached_property
    def _special_token_set(self) -> dict[str, None]:
        """Ordered, and quick to look up in."""
        return dict.fromkeys(str(token) for token in self.all_special_tokens_extended)

    def _forget(self) -> None:
        """Drop what was derived from the special and added tokens."""
        for name in [name for name in self.__dict__ if isinstance(getattr(type(self), name, None), cached_property)]:
            del self.__dict__[name]

    def _set_special_token(self, name: str, token: str | AddedToken | None) -> None:
        self._special_tokens_map[name] = None if token is None else _checked(name, token)
        self._forget()

    def _set_additional_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        if tokens is not None and not isinstance(tokens, (list, tuple)):
            raise TypeError(f"additional_special_tokens must be a list of tokens, got {type(tokens).__name__}.")
        name = "additional_special_tokens"
        self._special_tokens_map[name] = [_checked(name, token) for token in tokens or ()]
        self._forget()

    def _add_additional(self, tokens: Any, replace: bool) -> list[AddedToken]:
        name = "additional_special_tokens"
        if not isinstance(tokens, (list, tuple)):
            raise TypeError(f"{name} must be a list of tokens, got {type(tokens).__name__}.")
        present = [] if replace else self.additional_special_tokens
        new = [self._as_special(_checked(name, token)) for token in tokens if str(token) not in present]
        if new:
            kept = [] if replace else self._special_tokens_map[name]
            self._set_additional_special_tokens([*kept, *new])
        return new


def _checked(name: str, token: Any) -> str | AddedToken:
    if not isinstance(token, (str, AddedToken)):
        raise TypeError(f"{name} must be a str or an AddedToken, got {type(token).__name__}: {token!r}")
    return token


def with_special(token: str | AddedToken, special: bool) -> AddedToken:
    """A copy of a token that is marked special or not; a str that is special is matched before normalization."""
    if isinstance(token, str):
        return AddedToken(token, normalized=not special, special=special)
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=special,
    )
