"""Processors from the options of `generate`: which ones, with which arguments, in the reference's order.

Each row of the tables is an option, the values that switch it off, and the processor that another value makes. An
impossible value is refused, where the reference leaves some of them out without a word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quintet.generation.processors.base import LogitsProcessor, LogitsProcessorList
from quintet.generation.processors.diversity import HammingDiversityLogitsProcessor
from quintet.generation.processors.filters import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from quintet.generation.processors.length import (
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
)
from quintet.generation.processors.repetition import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SourceBound,
)
from quintet.generation.processors.sequences import NoBadWordsLogitsProcessor, SequenceBiasLogitsProcessor
from quintet.generation.processors.words import (
    PrefixConstrainedLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    VocabLimitLogitsProcessor,
)

PrefixFunction = Callable[[int, torch.Tensor], Sequence[int]]


def build_processors(
    config: Any,
    *,
    prefix_length: int,
    source_ids: torch.Tensor | None,
    prefix_allowed_tokens_fn: PrefixFunction | None = None,
    custom: Sequence[LogitsProcessor] | None = None,
    rows_per_source: int = 1,
) -> LogitsProcessorList:
    """The processors that a generation configuration asks for.

    config has the reference's attributes, and vocab_limit. prefix_length is the length of the targets that decoding
    starts with. source_ids (sources, length), on the device of the model, are the encoder's ids, or None where it was
    given something else; `rows_per_source` rows of the scores belong to each of them, adjacent.
    prefix_allowed_tokens_fn: see PrefixConstrainedLogitsProcessor. A processor in `custom` takes the place of one of
    its type that the configuration asks for; the others follow, before the filters of sampling. Those of custom that
    hold sources or a prefix function are copied, so that rows that leave the batch stay in the user's.

    Raises ValueError for an impossible option, naming it, and for one that needs source_ids where there are none.
    """
    if source_ids is not None and rows_per_source > 1:
        source_ids = source_ids.repeat_interleave(rows_per_source, dim=0)
    job = Job(config, prefix_length, source_ids, prefix_allowed_tokens_fn)
    processors = _merge(_made(SHAPING, job), custom or [])
    if config.do_sample:
        processors += _made(SAMPLING, job)
    return LogitsProcessorList(processors + _made(LAST, job))


@dataclass(frozen=True)
class Job:
    """What processors are made from, besides the value of their option."""

    config: Any
    prefix_length: int
    source_ids: torch.Tensor | None
    prefix_allowed_tokens_fn: PrefixFunction | None

    def option(self, name: str) -> Any:
        """The value of an option, or None."""
        return self.prefix_allowed_tokens_fn if name == "prefix_allowed_tokens_fn" else getattr(self.config, name)

    @property
    def sources(self) -> torch.Tensor:
        """The ids of the source (rows, length). ValueError if there are none."""
        if self.source_ids is None:
            raise ValueError("needs the source as input_ids, which are not there")
        return self.source_ids

    @property
    def ends(self) -> list[int]:
        """The tokens that end a target."""
        ends = self.config.eos_token_id
        if ends is None:
            return []
        return [ends] if isinstance(ends, int) else list(ends)

    @property
    def group_size(self) -> int:
        """The beams of a source that are scored in one call."""
        return self.config.num_beams // self.config.num_beam_groups

    @property
    def begin(self) -> int:
        """The length of a target when its first free token is chosen."""
        forced = self.prefix_length == 1 and self.config.forced_bos_token_id is not None
        return self.prefix_length + forced

    @property
    def min_tokens_to_keep(self) -> int:
        """Beams need a token that goes on, even if all ends are among the best."""
        return max(len(self.ends), 1) + 1 if self.config.num_beams > 1 else 1


Maker = Callable[[Any, Job], LogitsProcessor]


@dataclass(frozen=True)
class Recipe:
    """An option and the processor it stands for. With `off` or None, or without an end where it `needs_end`: none."""

    option: str
    off: Any
    make: Maker
    needs_end: bool = False

    def applies(self, job: Job) -> bool:
        """Whether the configuration asks for the processor."""
        value = job.option(self.option)
        switched_off = value is None or (self.off is not None and value == self.off)
        return not switched_off and (bool(job.ends) or not self.needs_end)


# fmt: off
SHAPING = (
    Recipe("sequence_bias", None, lambda value, job: SequenceBiasLogitsProcessor(value)),
    Recipe("diversity_penalty", 0.0, lambda value, job: HammingDiversityLogitsProcessor(
        value, job.config.num_beams, job.config.num_beam_groups)),
    Recipe("encoder_repetition_penalty", 1.0, lambda value, job: EncoderRepetitionPenaltyLogitsProcessor(
        value, job.sources)),
    Recipe("repetition_penalty", 1.0, lambda value, job: RepetitionPenaltyLogitsProcessor(value)),
    Recipe("vocab_limit", None, lambda value, job: VocabLimitLogitsProcessor(value)),
    Recipe("no_repeat_ngram_size", 0, lambda value, job: NoRepeatNGramLogitsProcessor(value)),
    Recipe("encoder_no_repeat_ngram_size", 0, lambda value, job: EncoderNoRepeatNGramLogitsProcessor(
        value, job.sources)),
    Recipe("bad_words_ids", None, lambda value, job: NoBadWordsLogitsProcessor(value, job.ends or None)),
    Recipe("min_length", 0, lambda value, job: MinLengthLogitsProcessor(value, job.ends), needs_end=True),
    Recipe("min_new_tokens", 0, lambda value, job: MinNewTokensLengthLogitsProcessor(
        job.prefix_length, value, job.ends), needs_end=True),
    Recipe("prefix_allowed_tokens_fn", None, lambda value, job: PrefixConstrainedLogitsProcessor(
        value, job.group_size)),
    Recipe("forced_bos_token_id", None, lambda value, job: ForcedBOSTokenLogitsProcessor(value)),
    Recipe("forced_eos_token_id", None, lambda value, job: ForcedEOSTokenLogitsProcessor(
        job.config.max_length, value)),
    Recipe("remove_invalid_values", False, lambda value, job: InfNanRemoveLogitsProcessor()),
    Recipe("exponential_decay_length_penalty", None, lambda value, job: ExponentialDecayLengthPenalty(
        value, job.ends, job.prefix_length)),
    Recipe("suppress_tokens", None, lambda value, job: SuppressTokensLogitsProcessor(value)),
    Recipe("begin_suppress_tokens", None, lambda value, job: SuppressTokensAtBeginLogitsProcessor(value, job.begin)),
)
SAMPLING = (
    Recipe("temperature", 1.0, lambda value, job: TemperatureLogitsWarper(value)),
    Recipe("top_k", 0, lambda value, job: TopKLogitsWarper(value, min_tokens_to_keep=job.min_tokens_to_keep)),
    Recipe("top_p", 1.0, lambda value, job: TopPLogitsWarper(value, min_tokens_to_keep=job.min_tokens_to_keep)),
    Recipe("min_p", None, lambda value, job: MinPLogitsWarper(value, min_tokens_to_keep=job.min_tokens_to_keep)),
    Recipe("typical_p", 1.0, lambda value, job: TypicalLogitsWarper(
        value, min_tokens_to_keep=job.min_tokens_to_keep)),
    Recipe("epsilon_cutoff", 0.0, lambda value, job: EpsilonLogitsWarper(
        value, min_tokens_to_keep=job.min_tokens_to_keep)),
    Recipe("eta_cutoff", 0.0, lambda value, job: EtaLogitsWarper(value, min_tokens_to_keep=job.min_tokens_to_keep)),
)
LAST = (Recipe("renormalize_logits", False, lambda value, job: LogitNormalization()),)
# fmt: on


def _made(recipes: Sequence[Recipe], job: Job) -> list[LogitsProcessor]:
    return [_make(recipe, job) for recipe in recipes if recipe.applies(job)]


def _make(recipe: Recipe, job: Job) -> LogitsProcessor:
    try:
        return recipe.make(job.option(recipe.option), job)
    except ValueError as error:
        raise ValueError(f"{recipe.option}: {error}") from error


def _merge(built: Sequence[LogitsProcessor], custom: Sequence[LogitsProcessor]) -> list[LogitsProcessor]:
    """The built processors, with a custom one in the place of its type; then the custom ones that are left."""
    for processor in custom:
        if not callable(processor):
            raise TypeError(f"a logits processor must be callable, got {processor!r}")
    first_of = {type(processor): processor for processor in reversed(custom)}
    merged = [first_of.get(type(processor), processor) for processor in built]
    for processor in custom:
        if not any(processor is other for other in merged):
            merged.append(processor)
    holders = (SourceBound, PrefixConstrainedLogitsProcessor)
    return [copy.copy(processor) if isinstance(processor, holders) else processor for processor in merged]
