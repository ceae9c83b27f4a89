"""What a caller may ask of a tokenizer, checked once at the door and passed on as one object."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

# The reference writes "no limit" as 1e30 into saved files; above this bound a length counts as no limit.
NO_MAX_LENGTH = int(1e30)
_LARGEST_REAL_LENGTH = int(1e20)

_ChoiceType = TypeVar("_ChoiceType", bound="_Choice")


class _Choice(str, Enum):
    @classmethod
    def parse(cls: type[_ChoiceType], value: object, argument: str) -> _ChoiceType:
        """The member for a string, or for another library's enum member of the same value."""
        text = getattr(value, "value", value)
        if isinstance(text, str) and text in cls._value2member_map_:
            return cls(text)
        allowed = ", ".join(repr(member.value) for member in cls)
        raise ValueError(f"{argument}={value!r} is not known. Allowed: {allowed}.")


class PaddingStrategy(_Choice):
    """Values of `padding`."""

    LONGEST = "longest"
    MAX_LENGTH = "max_length"
    DO_NOT_PAD = "do_not_pad"


class TruncationStrategy(_Choice):
    """Values of `truncation`."""

    LONGEST_FIRST = "longest_first"
    ONLY_FIRST = "only_first"
    ONLY_SECOND = "only_second"
    DO_NOT_TRUNCATE = "do_not_truncate"


class TensorType(_Choice):
    """Values of `return_tensors`."""

    PYTORCH = "pt"
    NUMPY = "np"


class Side(_Choice):
    """Values of `padding_side` and `truncation_side`."""

    RIGHT = "right"
    LEFT = "left"


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode: the arguments of a tokenizer's `__call__`, their defaults filled in."""

    padding: PaddingStrategy
    truncation: TruncationStrategy
    max_length: int | None
    padding_side: Side
    return_tensors: TensorType | None
    return_token_type_ids: bool
    return_attention_mask: bool
    split_special_tokens: bool
    add_special_tokens: bool = True
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True

    @property
    def truncates(self) -> bool:
        """Whether inputs longer than `max_length` are to be cut."""
        return self.truncation is not TruncationStrategy.DO_NOT_TRUNCATE and self.max_length is not None

    @property
    def pads(self) -> bool:
        """Whether inputs are to be filled up."""
        return self.padding is not PaddingStrategy.DO_NOT_PAD


def parse_tensor_type(value: Any) -> TensorType | None:
    """`return_tensors` as given by a caller; None stays None."""
    return None if value is None else TensorType.parse(value, "return_tensors")


def parse_padding(padding: Any) -> PaddingStrategy:
    """`padding` as given by a caller: True is "longest", False is "do_not_pad"."""
    if isinstance(padding, bool):
        return PaddingStrategy.LONGEST if padding else PaddingStrategy.DO_NOT_PAD
    return PaddingStrategy.parse(padding, "padding")


def parse_truncation(truncation: Any) -> TruncationStrategy:
    """`truncation` as given by a caller: True is "longest_first", False and None are "do_not_truncate"."""
    if truncation is None or isinstance(truncation, bool):
        return TruncationStrategy.LONGEST_FIRST if truncation else TruncationStrategy.DO_NOT_TRUNCATE
    return TruncationStrategy.parse(truncation, "truncation")


def resolve_strategies(
    padding: Any, truncation: Any, max_length: int | None, pad_to_multiple_of: int | None, model_max_length: int
) -> tuple[PaddingStrategy, TruncationStrategy, int | None]:
    """Strategies and the length they work to, by the reference's rules.

    A `max_length` on its own asks for truncation; without one the model's own limit is used, and where the model has
    none, there is nothing to pad or cut to. Raises ValueError for a `max_length` that is not a multiple of
    `pad_to_multiple_of` when both padding and truncation are on.
    """
    if max_length is not None and padding is False and truncation is None:
        truncation = TruncationStrategy.LONGEST_FIRST
    pad, cut = parse_padding(padding), parse_truncation(truncation)
    if padding is True and max_length is not None and cut is TruncationStrategy.DO_NOT_TRUNCATE:
        warnings.warn(
            "max_length has no effect with padding=True and no truncation: padding='max_length' pads up to it.",
            stacklevel=5,
        )
    if max_length is None:
        pad, cut, max_length = _apply_model_limit(pad, cut, model_max_length)
    elif max_length < 1 and cut is not TruncationStrategy.DO_NOT_TRUNCATE:
        raise ValueError(f"max_length={max_length} leaves no room for any token: it must be at least 1.")
    both = pad is not PaddingStrategy.DO_NOT_PAD and cut is not TruncationStrategy.DO_NOT_TRUNCATE
    if both and max_length is not None and pad_to_multiple_of and max_length % pad_to_multiple_of:
        raise ValueError(
            f"max_length={max_length} is not a multiple of pad_to_multiple_of={pad_to_multiple_of}, "
            "which it must be when both padding and truncation are on."
        )
    return pad, cut, max_length


def _apply_model_limit(
    pad: PaddingStrategy, cut: TruncationStrategy, model_max_length: int
) -> tuple[PaddingStrategy, TruncationStrategy, int | None]:
    needs_limit = pad is PaddingStrategy.MAX_LENGTH or cut is not TruncationStrategy.DO_NOT_TRUNCATE
    if not needs_limit:
        return pad, cut, None
    if model_max_length <= _LARGEST_REAL_LENGTH:
        return pad, cut, model_max_length
    logger.warning("No max_length is given and the model has no limit of its own: not padding or truncating to it.")
    if pad is PaddingStrategy.MAX_LENGTH:
        pad = PaddingStrategy.DO_NOT_PAD
    return pad, TruncationStrategy.DO_NOT_TRUNCATE, None
