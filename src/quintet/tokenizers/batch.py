"""What a tokenizer returns."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Encoding

from quintet.tokenizers.options import TensorType, parse_tensor_type
from quintet.tokenizers.tensors import as_tensor, is_tensor

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class CharSpan(NamedTuple):
    """Characters `start` up to, not including, `end` of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` up to, not including, `end` of an encoded text."""

    start: int
    end: int


class BatchEncoding(UserDict):
    """A dictionary of model inputs ("input_ids", "attention_mask", ...), whose keys are attributes as well.

    From a fast tokenizer it also maps between words, characters and tokens. Those methods take `(index)` to look into
    the first item, or `(batch_index, index)`; without a fast tokenizer they raise ValueError.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data)
        self._encodings: Sequence[Encoding] | None = [encoding] if isinstance(encoding, Encoding) else encoding
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError(
            f"{item!r}: keys are strings; a slice cuts every value; an integer selects an encoding of a fast tokenizer."
        )

    def __getattr__(self, item: str) -> Any:
        # `data` is missing only while an instance is being unpickled or copied.
        if item == "data" or item not in self.data:
            raise AttributeError(f"{type(self).__name__} has no {item!r}")
        return self.data[item]

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self._encodings, "n_sequences": self._n_sequences}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data = state["data"]
        self._encodings = state["encodings"]
        self._n_sequences = state["n_sequences"]

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs, None if not known."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether a fast tokenizer made this."""
        return self._encodings is not None

    @property
    def encodings(self) -> Sequence[Encoding] | None:
        """The fast tokenizer's own result, one for each item; None from other tokenizers."""
        return self._encodings

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of an item."""
        return self._encoding("tokens", batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of an item: 0 or 1 for the first or second text, None for an added special token."""
        return self._encoding("sequence_ids", batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of an item: the index of its word, None for an added special token."""
        return self._encoding("word_ids", batch_index).word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Which of the two texts the token belongs to."""
        encoding, token = self._locate_token("token_to_sequence", batch_or_token_index, token_index)
        return encoding.token_to_sequence(token)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that the token is part of."""
        encoding, token = self._locate_token("token_to_word", batch_or_token_index, token_index)
        return encoding.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that the token covers; None for an added special token."""
        encoding, token = self._locate_token("token_to_chars", batch_or_token_index, token_index)
        span = encoding.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word of the first (0) or second (1) text; None if it has none."""
        encoding, word = self._locate("word_to_tokens", batch_or_word_index, word_index)
        span = encoding.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan:
        """The characters of a word of the first (0) or second (1) text."""
        encoding, word = self._locate("word_to_chars", batch_or_word_index, word_index)
        return CharSpan(*encoding.word_to_chars(word, sequence_index))

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that covers a character of the first (0) or second (1) text; None if none does."""
        encoding, char = self._locate("char_to_token", batch_or_char_index, char_index)
        return encoding.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that a character of the first (0) or second (1) text is part of."""
        encoding, char = self._locate("char_to_word", batch_or_char_index, char_index)
        return encoding.char_to_word(char, sequence_index)

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn every value into a tensor, in place: "pt" or "np"; None changes nothing.

        Raises ValueError naming the key whose rows have unequal lengths.
        """
        kind = parse_tensor_type(tensor_type)
        if kind is None:
            return self
        for key, value in self.data.items():
            self.data[key] = _tensor(key, [value] if prepend_batch_axis and not is_tensor(value) else value, kind)
        return self

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> BatchEncoding:
        """Move every torch tensor to `device`, in place; returns this object. A dtype is ignored, with a warning."""
        import torch

        if not isinstance(device, (str, int, torch.device)):
            logger.warning("BatchEncoding.to moves to a device; %r is none and is ignored.", device)
            return self
        for key, value in self.data.items():
            if callable(getattr(value, "to", None)):
                self.data[key] = value.to(device=device, non_blocking=non_blocking)
        return self

    def _encoding(self, method: str, batch_index: int) -> Encoding:
        if not self._encodings:
            raise ValueError(f"{method}() needs the result of a fast tokenizer, such as T5TokenizerFast.")
        return self._encodings[batch_index]

    def _locate(self, method: str, batch_or_index: int, index: int | None) -> tuple[Encoding, int]:
        if index is None:
            return self._encoding(method, 0), batch_or_index
        return self._encoding(method, batch_or_index), index

    def _locate_token(self, method: str, batch_or_index: int, index: int | None) -> tuple[Encoding, int]:
        encoding, token = self._locate(method, batch_or_index, index)
        return encoding, token + len(encoding) if token < 0 else token


def _tensor(key: str, value: Any, tensor_type: TensorType) -> Any:
    try:
        return as_tensor(value, tensor_type)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{key!r} cannot become one tensor: its rows differ in length or are not numbers. Rows are brought to one "
            "length by padding=True and truncation=True."
        ) from error
