"""Who computes: the model's own layers, or the native engine. Decided here, once for each call."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from quintet.engine import Library, NativeSession, Plan, Unsupported, encode
from quintet.generation.protocol import RewindableSession
from quintet.model import checks
from quintet.model.cache import Cache, DynamicCache, EncoderDecoderCache, StaticCache
from quintet.model.inputs import Inputs
from quintet.model.plans import is_traced, native_plan
from quintet.model.session import DecoderInputs, EagerSession, Recording
from quintet.outputs import BaseModelOutput

if TYPE_CHECKING:
    from quintet.model.heads import T5ForConditionalGeneration
    from quintet.model.pretrained import T5PreTrainedModel

logger = logging.getLogger(__name__)

LONGEST_SOURCE = 2**16
"""Tokens. The native engine's memory grows with the length, its time with the square: longer texts are an accident,
which the model itself refuses for want of memory."""


@dataclass
class Wanted:
    """What a call asks for beside tokens or scores; each of these only the model itself can give, but the default."""

    attentions: bool = False
    states: bool = False
    use_cache: bool = True
    is_static: bool = False
    """Keys and values in a cache of fixed size."""


class Engine(Protocol):
    """Encodes sources and decodes from them."""

    def encode(self, inputs: Inputs) -> BaseModelOutput:
        """The states (sources, length, d_model); those of padding mean nothing."""

    def session(self, inputs: Inputs, encoded: BaseModelOutput, max_length: int) -> RewindableSession:
        """A decoder with one row for each source, for targets of up to `max_length` tokens."""


class EagerEngine:
    """The model's own layers."""

    def __init__(self, model: T5ForConditionalGeneration, wanted: Wanted) -> None:
        self._model, self._wanted = model, wanted
        self.recording = Recording()
        self.cache: EncoderDecoderCache | None = None
        """The session's keys and values."""

    def encode(self, inputs: Inputs) -> BaseModelOutput:
        """See `Engine`."""
        if inputs.encoder_outputs is not None:
            return inputs.encoder_outputs
        return self._model.encoder(
            input_ids=inputs.input_ids,
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask,
            head_mask=inputs.head_mask,
            output_attentions=self._wanted.attentions,
            output_hidden_states=self._wanted.states,
            return_dict=True,
        )

    def session(self, inputs: Inputs, encoded: BaseModelOutput, max_length: int) -> EagerSession:
        """See `Engine`."""
        self.recording = Recording(self._wanted.attentions, self._wanted.states)
        self.cache = self._new_cache(max_length, encoded[0].shape[1])
        decoder = DecoderInputs(inputs.decoder_attention_mask, inputs.decoder_head_mask, inputs.cross_attn_head_mask)
        return EagerSession(self._model, encoded[0], inputs.attention_mask, self.cache, decoder, self.recording)

    def _new_cache(self, max_length: int, source_length: int) -> EncoderDecoderCache | None:
        if not self._wanted.use_cache:
            return None
        own: Cache = DynamicCache()
        cross: Cache = DynamicCache()
        if self._wanted.is_static:
            own, cross = StaticCache(max_cache_len=max_length), StaticCache(max_cache_len=source_length)
        return EncoderDecoderCache(own, cross)


class NativeEngine:
    """Native code; padding is left out of all work."""

    def __init__(self, model: T5PreTrainedModel, library: Library, plan: Plan) -> None:
        self._model, self._library, self._plan = model, library, plan

    def encode(self, inputs: Inputs) -> BaseModelOutput:
        """See `Engine`; in float32."""
        if inputs.encoder_outputs is not None:
            return inputs.encoder_outputs
        check_source(self._model, inputs.input_ids, inputs.inputs_embeds, inputs.attention_mask)
        kept = kept_tokens(inputs)
        if not _are_runs(kept):
            return BaseModelOutput(self.encode_all(inputs.input_ids, inputs.inputs_embeds, kept))
        ids = None if inputs.input_ids is None else inputs.input_ids[kept]
        embeds = None if inputs.inputs_embeds is None else inputs.inputs_embeds[kept]
        states = encode(self._library, self._plan, kept.sum(dim=1).tolist(), ids, embeds)
        padded = states.new_zeros(*kept.shape, states.shape[1])
        padded[kept] = states
        return BaseModelOutput(padded)

    def encode_all(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, visible: torch.Tensor | None
    ) -> torch.Tensor:
        """The states (sources, length, d_model) of padding, too: as the model itself gives them."""
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        rows, length = given.shape[:2]
        ids = None if input_ids is None else input_ids.flatten()
        embeds = None if inputs_embeds is None else inputs_embeds.flatten(0, 1)
        shown = None if visible is None else visible.flatten()
        return encode(self._library, self._plan, [length] * rows, ids, embeds, shown).unflatten(0, (rows, length))

    def session(self, inputs: Inputs, encoded: BaseModelOutput, max_length: int) -> NativeSession:
        """See `Engine`."""
        states = encoded[0]
        checks.check_embeds(states, self._model.config.d_model, "encoder_outputs")
        checks.check_mask(inputs.attention_mask, states.shape[0], 1, states.shape[1], "attention_mask")
        kept = kept_tokens(inputs)
        return NativeSession(self._library, self._plan, states[kept], kept.sum(dim=1).tolist())


def choose_engine(
    model: T5ForConditionalGeneration, inputs: Inputs, wanted: Wanted | None = None
) -> EagerEngine | NativeEngine:
    """The native engine if it can do what the call asks for, else the model itself."""
    wanted = wanted or Wanted()
    try:
        engine = NativeEngine(model, *native_plan(model))
        _check_call(inputs, wanted)
    except Unsupported as reason:
        logger.debug("the model's own layers compute, because of %s", reason)
        return EagerEngine(model, wanted)
    return engine


def encode_natively(
    model: T5PreTrainedModel,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor | None:
    """The encoder's states (batch, length, d_model) in the model's dtype; None where the model itself must compute.

    Raises ValueError or IndexError for input that does not fit.
    """
    if is_traced():  # and nothing but that can be asked then
        return None
    inputs = Inputs(input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask)
    try:
        _check_gradients(model, inputs_embeds)
        engine = NativeEngine(model, *native_plan(model))
        _check_call(inputs, Wanted())
    except Unsupported as reason:
        logger.debug("the model's own layers compute, because of %s", reason)
        return None
    check_source(model, input_ids, inputs_embeds, attention_mask)
    visible = None if attention_mask is None else attention_mask.bool()
    return engine.encode_all(input_ids, inputs_embeds, visible).to(model.get_encoder().dtype)


def _check_gradients(model: T5PreTrainedModel, inputs_embeds: torch.Tensor | None) -> None:
    """Unsupported if a backward pass may follow."""
    given = [] if inputs_embeds is None else [inputs_embeds]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in [*model.parameters(), *given]):
        raise Unsupported("gradients")


def _check_call(inputs: Inputs, wanted: Wanted) -> None:
    """Unsupported for what only the model itself gives or takes."""
    if wanted != Wanted():
        raise Unsupported("what the call asks for: attentions, states, no cache or a static one")
    masks = (inputs.head_mask, inputs.decoder_head_mask, inputs.cross_attn_head_mask)
    if any(mask is not None for mask in masks):
        raise Unsupported("head masks")
    own = inputs.decoder_attention_mask
    if own is not None and not bool((own == 1).all()):
        raise Unsupported("a mask of the targets")
    for given in (inputs.input_ids, inputs.inputs_embeds, inputs.attention_mask):
        if given is not None and (type(given) is not torch.Tensor or given.device.type != "cpu"):
            raise Unsupported("input that is no plain tensor on the CPU")
    given = inputs.input_ids if inputs.input_ids is not None else inputs.inputs_embeds
    if given is not None and given.dim() > 1 and given.shape[1] > LONGEST_SOURCE:
        raise Unsupported(f"a source of more than {LONGEST_SOURCE:,} tokens")
    mask = inputs.attention_mask
    if mask is not None and not (
        mask.dim() == 2 and bool(((mask == 0) | (mask == 1)).all()) and bool(mask.any(1).all())
    ):
        raise Unsupported("a mask that is not of one row of 0 and 1 for each source, at least one of them 1")


def check_source(
    model: T5PreTrainedModel,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
) -> None:
    """What the model's own encoder refuses, in the same words."""
    checks.check_one_given(input_ids, inputs_embeds, ("input_ids", "inputs_embeds"))
    if input_ids is not None:
        checks.check_token_ids(input_ids, model.get_input_embeddings().num_embeddings, "input_ids")
        shape = input_ids.shape
    else:
        assert inputs_embeds is not None
        checks.check_embeds(inputs_embeds, model.config.d_model, "inputs_embeds")
        shape = inputs_embeds.shape[:2]
    checks.check_mask(attention_mask, shape[0], shape[1], shape[1], "attention_mask")


def kept_tokens(inputs: Inputs) -> torch.Tensor:
    """Which places (sources, length) hold a token, and not padding."""
    if inputs.attention_mask is not None:
        return inputs.attention_mask.bool()
    states = inputs.encoder_outputs[0] if inputs.encoder_outputs is not None else None
    given = next(value for value in (states, inputs.input_ids, inputs.inputs_embeds) if value is not None)
    return torch.ones(given.shape[:2], dtype=torch.bool)


def _are_runs(kept: torch.Tensor) -> bool:
    """Whether each row's tokens are neighbours, so that leaving out the others changes no distance between them."""
    begins = kept.clone()
    begins[:, 1:] &= ~kept[:, :-1]
    return bool((begins.sum(dim=1) == 1).all())
