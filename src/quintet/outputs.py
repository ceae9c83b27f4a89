"""What the networks return: dataclasses that are also mappings and tuples.

Every output can be read as ``out.logits``, ``out["logits"]``, ``out[0]`` or ``tuple(out.to_tuple())``. A field that is
None is no key and takes no place in the tuple, as in `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import torch
from torch.utils import _pytree as pytree

Tensors = tuple[torch.Tensor, ...]


class ModelOutput(dict[str, Any]):
    """Base of all outputs: attribute, key, index and slice access over the fields that are set.

    A subclass is a dataclass whose fields all default to None. Fields can be assigned but not removed. The subclass is
    known to `torch.utils._pytree`, so that `torch.compile`, DDP and FSDP look inside it.
    """

    def __init_subclass__(cls) -> None:
        pytree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), list(output)),
            lambda values, names: cls(**dict(zip(names, values, strict=True))),
            serialized_type_name=f"{cls.__module__}.{cls.__name__}",
        )

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        first = getattr(self, names[0])
        if isinstance(first, Mapping):  # libraries that move or gather tensors rebuild an output as type(output)(dict)
            setattr(self, names[0], None)
            for name, value in first.items():
                setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if value is not None:
            super().__setitem__(name, value)
        elif name in self:
            super().__delitem__(name)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __delitem__(self, key: Any) -> NoReturn:
        raise TypeError(f"a field of {type(self).__name__} cannot be removed; set it to None instead")

    def pop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: an output keeps its fields."""
        self.__delitem__(None)

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: assign the fields one by one."""
        raise TypeError(f"{type(self).__name__} has fixed fields; assign them as output.name = value")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values of the fields that are set, in the order of the fields."""
        return tuple(self[field.name] for field in fields(self) if field.name in self)  # type: ignore[arg-type]


@dataclass
class BaseModelOutput(ModelOutput):
    """An encoder's output: last_hidden_state (batch, source, d_model); per-layer states and attentions if asked for."""

    last_hidden_state: torch.Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """A decoder's output: as an encoder's, with its cache and its attention over the source."""

    last_hidden_state: torch.Tensor | None = None
    past_key_values: Any = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


@dataclass
class Seq2SeqModelOutput(ModelOutput):
    """Both stacks without a head: last_hidden_state (batch, target, d_model) is the decoder's."""

    last_hidden_state: torch.Tensor | None = None
    past_key_values: Any = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@dataclass
class Seq2SeqLMOutput(ModelOutput):
    """Conditional generation: loss if labels were given, logits (batch, target, vocab_size)."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Any = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@dataclass
class Seq2SeqSequenceClassifierOutput(ModelOutput):
    """Sequence classification: loss if labels were given, logits (batch, num_labels)."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Any = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """Token classification on the encoder: loss if labels were given, logits (batch, source, num_labels)."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass
class Seq2SeqQuestionAnsweringModelOutput(ModelOutput):
    """Extractive question answering: loss if both positions were given, start_logits and end_logits (batch, target)."""

    loss: torch.Tensor | None = None
    start_logits: torch.Tensor | None = None
    end_logits: torch.Tensor | None = None
    past_key_values: Any = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@dataclass
class GenerateEncoderDecoderOutput(ModelOutput):
    """What `generate` returns without beams, if it is asked for more than sequences (rows, length).

    scores and logits hold a tensor (rows, vocabulary) for each step, after and before the processors; attentions and
    states of the decoder, for each step, a tensor per layer.
    """

    sequences: torch.Tensor | None = None
    scores: Tensors | None = None
    logits: Tensors | None = None
    encoder_attentions: Tensors | None = None
    encoder_hidden_states: Tensors | None = None
    decoder_attentions: tuple[Tensors, ...] | None = None
    cross_attentions: tuple[Tensors, ...] | None = None
    decoder_hidden_states: tuple[Tensors, ...] | None = None
    past_key_values: Any = None


@dataclass
class GenerateBeamEncoderDecoderOutput(ModelOutput):
    """What `generate` returns under beams, if it is asked for more than sequences (rows, length).

    As without beams, with rows of scores for each beam; sequences_scores (rows,) are sums of log-probabilities divided
    by length ** length_penalty, and beam_indices (rows, new tokens) say which row each token came from, -1 for none.
    """

    sequences: torch.Tensor | None = None
    sequences_scores: torch.Tensor | None = None
    scores: Tensors | None = None
    logits: Tensors | None = None
    beam_indices: torch.Tensor | None = None
    encoder_attentions: Tensors | None = None
    encoder_hidden_states: Tensors | None = None
    decoder_attentions: tuple[Tensors, ...] | None = None
    cross_attentions: tuple[Tensors, ...] | None = None
    decoder_hidden_states: tuple[Tensors, ...] | None = None
    past_key_values: Any = None


@dataclass
class ScoreOutput(ModelOutput):
    """What `score` returns, for each source and each of its targets.

    sequence_log_probs (sources, targets), -inf where a source has fewer targets than another; token_log_probs (sources,
    targets, length), 0 behind a target's end; lengths (sources, targets) in tokens.
    """

    sequence_log_probs: torch.Tensor | None = None
    token_log_probs: torch.Tensor | None = None
    lengths: torch.Tensor | None = None
