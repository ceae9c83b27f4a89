"""What the tokenizers that work in Python share: T5Tokenizer and ByT5Tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken

from quintet.tokenizers.added_tokens import Splitter
from quintet.tokenizers.batch import BatchEncoding
from quintet.tokenizers.options import EncodeOptions
from quintet.tokenizers.pretrained import PretrainedTokenizer
from quintet.tokenizers.special_tokens import with_special

logger = logging.getLogger(__name__)


class PythonTokenizer(PretrainedTokenizer):
    """Added tokens are matched whole; the text between them goes to the subclass's `_tokenize`.

    `added` are the added tokens that a subclass starts with; those in `added_tokens_decoder`, as a saved tokenizer has
    them, take precedence. Special tokens that the vocabulary lacks are added after it.
    """

    def __init__(
        self,
        added: dict[int, AddedToken],
        added_tokens_decoder: dict[int, AddedToken] | None = None,
        **kwargs: Any,
    ) -> None:
        self._added_tokens_decoder = {**added, **(added_tokens_decoder or {})}
        super().__init__(**kwargs)
        known = self._added_ids
        missing = [
            token for token in self.all_special_tokens_extended if isinstance(token, AddedToken) or token not in known
        ]
        self.add_tokens(missing, special_tokens=True)

    # What subclasses provide -------------------------------------------------------------------------------------

    def _tokenize(self, text: str) -> list[str]:
        """The tokens of a text without added tokens."""
        raise NotImplementedError

    def _piece_ids(self, tokens: list[str]) -> list[int]:
        """The ids of tokens that are not added ones; unknown ones have the unknown token's id."""
        raise NotImplementedError

    def _piece(self, token_id: int) -> str:
        """The token of an id that is not an added one's; IndexError if there is none."""
        raise NotImplementedError

    def _base_vocab(self) -> list[str]:
        """The tokens of the vocabulary itself, by id."""
        raise NotImplementedError

    # Text to ids -------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, split_special_tokens: bool | None = None, **kwargs: Any) -> list[str]:
        """The tokens of a text; with `split_special_tokens`, added tokens in it are read as plain text."""
        if kwargs:
            self._refuse_unknown(kwargs)
        if self.split_special_tokens if split_special_tokens is None else split_special_tokens:
            return self._tokenize(text) if text else []
        tokens: list[str] = []
        for part in self._splitter.split(text):
            if part in self._added_ids:
                tokens.append(part)
            else:
                tokens.extend(self._tokenize(part))
        return tokens

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of several; None stays None."""
        if tokens is None:
            return None
        if isinstance(tokens, str):
            return self._token_ids([tokens])[0]
        return self._token_ids(list(tokens))

    def _token_ids(self, tokens: list[str]) -> list[int]:
        ids = self._piece_ids(tokens)
        added = self._added_ids
        return [added.get(token, token_id) for token, token_id in zip(tokens, ids, strict=True)]

    def _ids(self, text: Any, how: EncodeOptions) -> list[int]:
        """Ids of a text, of words, of tokens, or the ids themselves."""
        if isinstance(text, str):
            return self._token_ids(self.tokenize(text, split_special_tokens=how.split_special_tokens))
        if isinstance(text, (list, tuple)):
            if all(isinstance(item, str) for item in text) and (text or how.is_split_into_words):
                return self._word_ids(text, how) if how.is_split_into_words else self._token_ids(list(text))
            if text and all(isinstance(item, int) for item in text):
                return list(text)
        raise ValueError(
            f"cannot encode {text!r:.60} of type {type(text).__name__}: a text must be a str, a list of str (words or "
            "tokens) or a list of int (ids)."
        )

    def _word_ids(self, words: Sequence[str], how: EncodeOptions) -> list[int]:
        tokens = (self.tokenize(word, split_special_tokens=how.split_special_tokens) for word in words)
        return self._token_ids([token for of_word in tokens for token in of_word])

    def _encode_one(self, text: Any, text_pair: Any, how: EncodeOptions) -> BatchEncoding:
        self._refuse_offsets(how)
        pair_ids = None if text_pair is None else self._ids(text_pair, how)
        prepared = self._prepare(self._ids(text, how), pair_ids, how)
        padded = self._padder(how).pad_one(prepared)
        if how.return_length:
            padded["length"] = len(padded[self.model_input_names[0]])
        return BatchEncoding(padded, tensor_type=how.return_tensors, prepend_batch_axis=True)

    def _encode_batch(self, batch: Sequence[Any], how: EncodeOptions) -> BatchEncoding:
        self._refuse_offsets(how)
        rows = []
        for item in batch:
            text, pair = _as_pair(item, how)
            row = self._prepare(self._ids(text, how), None if pair is None else self._ids(pair, how), how)
            if how.return_length:
                row["length"] = len(row[self.model_input_names[0]])
            rows.append(row)
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        return BatchEncoding(self._padder(how).pad_batch(columns), tensor_type=how.return_tensors)

    def _refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        """Only warn, as the reference's Python tokenizers do; its fast ones raise TypeError."""
        logger.warning("%s does not know and ignores: %s.", type(self).__name__, ", ".join(sorted(kwargs)))

    def _refuse_offsets(self, how: EncodeOptions) -> None:
        if how.return_offsets_mapping:
            raise NotImplementedError("return_offsets_mapping needs a fast tokenizer, such as T5TokenizerFast.")

    def _close(self, ids: list[int]) -> list[int]:
        """Ids that end a sequence already, for example because the text said `</s>`, are not ended again."""
        return list(ids) if ids and ids[-1] == self.eos_token_id else super()._close(ids)

    # Ids to text -------------------------------------------------------------------------------------------------

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of several. Raises IndexError for an id outside the vocabulary."""
        if isinstance(ids, int):
            return self._token(ids)
        skipped = self._special_ids if skip_special_tokens else frozenset()
        return [self._token(int(token_id)) for token_id in ids if int(token_id) not in skipped]

    def _token(self, token_id: int) -> str:
        added = self._added_tokens_decoder.get(token_id)
        return self._piece(token_id) if added is None else added.content

    def _decode_rows(
        self, rows: list[list[int]], skip_special_tokens: bool, spaces_between_special_tokens: bool = True, **_: Any
    ) -> list[str]:
        separator = " " if spaces_between_special_tokens else ""
        return [separator.join(self._decoded_parts(ids, skip_special_tokens)) for ids in rows]

    def _decoded_parts(self, ids: list[int], skip_special_tokens: bool) -> list[str]:
        """Added tokens that stand alone in a text, and the text between them."""
        parts: list[str] = []
        pending: list[str] = []
        for token in self.convert_ids_to_tokens(ids, skip_special_tokens):
            if skip_special_tokens and token in self._special_token_set:
                continue
            if token not in self._standing_alone:
                pending.append(token)
                continue
            if pending and (text := self.convert_tokens_to_string(pending)):
                parts.append(text)
            pending = []
            parts.append(token)
        return [*parts, self.convert_tokens_to_string(pending)] if pending else parts

    # The vocabulary ----------------------------------------------------------------------------------------------

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens matched whole in texts, by id, in the order of ids."""
        return dict(sorted(self._added_tokens_decoder.items()))

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, added ones included."""
        return dict(self._vocab)

    def __len__(self) -> int:
        return len(self._vocab)

    def __bool__(self) -> bool:
        return True

    def _add_tokens(self, tokens: list[Any], special_tokens: bool) -> int:
        added = 0
        for token in tokens:
            if not str(token) or (isinstance(token, str) and token in self._added_ids):
                continue
            special = special_tokens or token in self._special_token_set or getattr(token, "special", False)
            new = with_special(token, special)
            if new.special and new.content not in self._special_token_set:
                self._special_tokens_map["additional_special_tokens"].append(new)
                self._special_token_set[new.content] = None
            token_id = self._added_ids.get(new.content)
            if token_id is None:
                size = len(self._vocab)
                token_id = self._vocab.setdefault(new.content, size)
                added += token_id == size
            self._added_tokens_decoder[token_id] = new
        return added

    @cached_property
    def _vocab(self) -> dict[str, int]:
        tokens = list(self._base_vocab())
        for token_id, token in self._added_tokens_decoder.items():
            if token_id < len(tokens):
                tokens[token_id] = token.content
        return {token: token_id for token_id, token in enumerate(tokens)} | self._added_ids

    @cached_property
    def _added_ids(self) -> dict[str, int]:
        return self.added_tokens_encoder

    @cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self._added_tokens_decoder.values())

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.all_special_ids)

    @cached_property
    def _standing_alone(self) -> frozenset[str]:
        """Added tokens that are not special, and the unnamed special ones that come after the vocabulary."""
        unnamed = self.additional_special_tokens
        beyond = {
            token
            for token, token_id in zip(unnamed, self._token_ids(unnamed), strict=True)
            if token_id >= self.vocab_size
        }
        return frozenset(self._added_ids.keys() - self._special_token_set.keys() | beyond)


def _as_pair(item: Any, how: EncodeOptions) -> tuple[Any, Any]:
    """A batch's item as (text, pair): a tuple or list is a pair, unless it holds the words of one text."""
    is_words = how.is_split_into_words and not (item and isinstance(item[0], (list, tuple)))
    if not isinstance(item, (list, tuple)) or is_words:
        return item, None
    if len(item) != 2:
        raise ValueError(f"a pair must have two texts, got {len(item)}: {item!r:.60}")
    return item[0], item[1]
