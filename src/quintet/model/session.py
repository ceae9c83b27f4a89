"""The eager model as a decoding session: the specification that faster engines are held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from quintet.model.cache import EncoderDecoderCache
from quintet.model.sharing import SourceSharing
from quintet.outputs import BaseModelOutputWithPastAndCrossAttentions

if TYPE_CHECKING:
    from quintet.model.heads import T5ForConditionalGeneration


@dataclass
class DecoderInputs:
    """What the decoder gets beside tokens and source: a mask (rows, n) of the targets' prefixes, and head masks."""

    attention_mask: torch.Tensor | None = None
    head_mask: torch.Tensor | None = None
    cross_attn_head_mask: torch.Tensor | None = None


@dataclass
class Recording:
    """What the decoder computed at each step, per layer, if it is wanted."""

    want_attentions: bool = False
    want_states: bool = False
    attentions: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    cross_attentions: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    states: list[tuple[torch.Tensor, ...]] = field(default_factory=list)

    def add(self, output: BaseModelOutputWithPastAndCrossAttentions) -> None:
        """Keep a step's attentions and states."""
        if self.want_attentions:
            self.attentions.append(output.attentions or ())
            self.cross_attentions.append(output.cross_attentions or ())
        if self.want_states:
            self.states.append(output.hidden_states or ())


class EagerSession:
    """Steps the model itself, keeping keys and values (`cache`) or, without a cache, the whole target.

    Rows of the same source share its states, keys and values: they are never copied per row.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        memory: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: EncoderDecoderCache | None,
        inputs: DecoderInputs | None = None,
        recording: Recording | None = None,
    ) -> None:
        """`memory` (sources, length, d_model) are the encoder's states, `attention_mask` says what of it is padding."""
        self._model = model
        self._memory = memory
        self._attention_mask = attention_mask
        self._cache = cache
        self._inputs = inputs or DecoderInputs()
        self._recording = recording or Recording()
        self._source_of_row = torch.arange(memory.shape[0], device=memory.device)
        self._target: torch.Tensor | None = None

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (rows, n) to the rows' targets; returns the scores (rows, vocabulary) of what comes next."""
        return self._model.project(self._states(tokens)[:, -1])

    def step_all(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `step`, but the scores (rows, n, vocabulary) after each of the new tokens."""
        return self._model.project(self._states(tokens))

    def step_states(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `step`, with the last layer's states (rows, n, d_model) of the new tokens."""
        states = self._states(tokens)
        return self._model.project(states[:, -1]), states

    def crop(self, length: int) -> None:
        """Take back all tokens of the targets but the first `length`."""
        if self._cache is not None:
            self._cache.crop(length)
        if self._target is not None:
            self._target = self._target[:, :length]
        if self._inputs.attention_mask is not None:
            self._inputs.attention_mask = self._inputs.attention_mask[:, :length]

    def select(self, rows: torch.Tensor) -> None:
        """Keep the given rows, in that order; a source leaves with its last row."""
        if self._cache is not None:
            self._cache.self_attention_cache.batch_select_indices(rows)
        if self._target is not None:
            self._target = self._target.index_select(0, rows)
        if self._inputs.attention_mask is not None:
            self._inputs.attention_mask = self._inputs.attention_mask.index_select(0, rows)
        source_of_row = self._source_of_row.index_select(0, rows)
        if not torch.equal(source_of_row, self._source_of_row):
            self._regroup(source_of_row)

    def _regroup(self, source_of_row: torch.Tensor) -> None:
        """Let go of sources that no row reads any more, and number the others anew."""
        read, self._source_of_row = source_of_row.unique(return_inverse=True)
        if read.numel() < self._memory.shape[0]:
            self._memory = self._memory.index_select(0, read)
            if self._attention_mask is not None:
                self._attention_mask = self._attention_mask.index_select(0, read)
            if self._cache is not None:
                self._cache.cross_attention_cache.batch_select_indices(read)
        if self._cache is not None:
            one_each = torch.arange(read.numel(), device=read.device)
            alone = torch.equal(self._source_of_row, one_each)
            self._cache.sharing = None if alone else SourceSharing(self._source_of_row, read.numel())

    def _states(self, tokens: torch.Tensor) -> torch.Tensor:
        """The last layer's states (rows, n, d_model) of new tokens (rows, n)."""
        memory, mask = self._memory, self._attention_mask
        new = tokens.shape[1]
        self._extend_mask(tokens)
        if self._cache is None:
            tokens = self._target = tokens if self._target is None else torch.cat([self._target, tokens], dim=1)
            memory = memory.index_select(0, self._source_of_row)
            mask = None if mask is None else mask.index_select(0, self._source_of_row)
        output = self._model.decoder(
            input_ids=tokens,
            attention_mask=self._inputs.attention_mask,
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            head_mask=self._inputs.head_mask,
            cross_attn_head_mask=self._inputs.cross_attn_head_mask,
            past_key_values=self._cache,
            use_cache=self._cache is not None,
            output_attentions=self._recording.want_attentions,
            output_hidden_states=self._recording.want_states,
            return_dict=True,
        )
        self._recording.add(output)
        return output.last_hidden_state[:, -new:]

    def _extend_mask(self, tokens: torch.Tensor) -> None:
        """New tokens are no padding. The first ones are the prefix, for which the mask was given."""
        mask = self._inputs.attention_mask
        if mask is None:
            return
        length = self._length + tokens.shape[1]
        if mask.shape[1] < length:
            ones = mask.new_ones(mask.shape[0], length - mask.shape[1])
            self._inputs.attention_mask = torch.cat([mask, ones], dim=1)

    @property
    def _length(self) -> int:
        if self._cache is None:
            return 0 if self._target is None else self._target.shape[1]
        return int(self._cache.get_seq_length())
