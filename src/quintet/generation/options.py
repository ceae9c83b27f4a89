"""The options of one call of `generate`: its keywords, over the configuration it was given, over the model's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from quintet.generation.config import DEFAULT_MAX_LENGTH, GenerationConfig
from quintet.generation.validation import refuse_unsupported


@dataclass
class Call:
    """What a call is given that no file can hold; see `T5ForConditionalGeneration.generate`."""

    logits_processor: Sequence[Any] | None = None
    stopping_criteria: Sequence[Any] | None = None
    prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], Sequence[int]] | None = None
    assistant_model: Any = None
    streamer: Any = None
    tokenizer: Any = None
    generator: torch.Generator | None = None
    batch_size: int | None = None
    progress: bool | None = None
    numbers: Sequence[int] | None = None
    """Which of a longer list's sources these are, if they are some of it."""

    def for_rows(self, rows: Sequence[int]) -> Call:
        """The same for some of the sources only, which users go on knowing by their old numbers."""
        allowed = self.prefix_allowed_tokens_fn
        if allowed is None:
            return replace(self, numbers=rows)

        def allowed_tokens(row: int, ids: torch.Tensor) -> Sequence[int]:
            tokens = allowed(rows[row], ids)
            if len(tokens) == 0:
                raise ValueError(
                    f"prefix_allowed_tokens_fn allows no token for source {rows[row]} after {ids.tolist()}"
                )
            return tokens

        return replace(self, numbers=rows, prefix_allowed_tokens_fn=allowed_tokens)


def combine(
    own: GenerationConfig, given: GenerationConfig | None, use_model_defaults: bool | None, options: dict[str, Any]
) -> GenerationConfig:
    """The options of a call, as a configuration that the caller may change.

    A configuration that was given takes from the model's `own` what it leaves at its default, as in the reference
    (special tokens only, if the model's was written before transformers 4.50). A max_length among the keywords wins
    over a max_new_tokens that is not. Raises ValueError for options that are unknown or that quintet has not.
    """
    config = replace(own, derived_from=None)
    if given is not None:
        every_option = _is_recent(own.transformers_version) if use_model_defaults is None else use_model_defaults
        config = given.filled_from(own, every_option)
    refuse_unsupported(config.extra)
    if options.get("max_length") is not None:
        options = {"max_new_tokens": None, **options}
    unknown = config.update(**refuse_unsupported(options))
    if unknown:
        raise ValueError(
            f"generate got unknown options: {', '.join(sorted(unknown))}; see GenerationConfig for its options"
        )
    return config


def fix_lengths(config: GenerationConfig, prefix: int, is_default: bool) -> None:
    """Put max_length and min_length of the whole target, prefix included, into the configuration of a call.

    A max_length that nobody asked for (`is_default`) counts new tokens. Raises ValueError if nothing can be generated,
    or if more has to be than may be.
    """
    if config.max_new_tokens is not None:
        config.max_length = prefix + config.max_new_tokens
    elif is_default and config.max_length == DEFAULT_MAX_LENGTH:
        config.max_length += prefix
    if config.min_new_tokens is not None:
        config.min_length = prefix + config.min_new_tokens
    if prefix >= config.max_length:
        raise ValueError(f"max_length={config.max_length} leaves no room after a target prefix of {prefix} tokens")
    if config.min_length is not None and config.min_length > config.max_length:
        what = "min_length" if config.min_new_tokens is None else f"min_new_tokens={config.min_new_tokens}: min_length"
        raise ValueError(
            f"{what}={config.min_length} is above max_length={config.max_length} (both with the start token)"
        )


def _is_recent(version: str | None) -> bool:
    """Whether a file was written by transformers 4.50 or later; an object made here has no version."""
    if version is None:
        return True
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return numbers >= [4, 50]
