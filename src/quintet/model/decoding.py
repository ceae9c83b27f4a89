"""The eager model as a decoding session, and `generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quintet.generation.config import DEFAULT_MAX_LENGTH, GenerationConfig
from quintet.generation.greedy import greedy_search
from quintet.model.cache import Cache, DynamicCache, EncoderDecoderCache, StaticCache
from quintet.outputs import BaseModelOutput

if TYPE_CHECKING:
    from quintet.model.heads import T5ForConditionalGeneration


class EagerSession:
    """Steps the model itself, keeping keys and values (`cache`) or, without a cache, the whole target."""

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        memory: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: EncoderDecoderCache | None,
    ) -> None:
        self._model = model
        self._memory = memory
        self._attention_mask = attention_mask
        self._cache = cache
        self._target: torch.Tensor | None = None

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (rows, n) to the rows' targets; returns the scores (rows, vocabulary) of what comes next."""
        if self._cache is None:
            tokens = tokens if self._target is None else torch.cat([self._target, tokens], dim=1)
            self._target = tokens
        hidden = self._model.decoder(
            input_ids=tokens,
            encoder_hidden_states=self._memory,
            encoder_attention_mask=self._attention_mask,
            past_key_values=self._cache,
            use_cache=self._cache is not None,
            return_dict=True,
        ).last_hidden_state
        return self._model.project(hidden[:, -1])

    def select(self, rows: torch.Tensor) -> None:
        """Keep the given rows, in that order."""
        self._memory = self._memory.index_select(0, rows)
        if self._attention_mask is not None:
            self._attention_mask = self._attention_mask.index_select(0, rows)
        if self._cache is not None:
            self._cache.batch_select_indices(rows)
        if self._target is not None:
            self._target = self._target.index_select(0, rows)


@torch.no_grad()
def generate(
    model: T5ForConditionalGeneration,
    inputs: torch.Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """See `T5ForConditionalGeneration.generate`."""
    sources = {name: kwargs.pop(name, None) for name in ("input_ids", "inputs_embeds", "encoder_outputs")}
    if inputs is not None and sources["input_ids"] is not None:
        raise ValueError("give inputs or input_ids, not both")
    sources["input_ids"] = inputs if inputs is not None else sources["input_ids"]
    attention_mask = kwargs.pop("attention_mask", None)
    prefix = kwargs.pop("decoder_input_ids", None)
    default = model.generation_config or GenerationConfig.from_model_config(model.config)
    config = (generation_config or default).updated(**kwargs)
    attention_mask = _default_mask(sources["input_ids"], attention_mask, config.pad_token_id)
    memory = _encode(model, attention_mask=attention_mask, **sources)
    if prefix is None:
        prefix = memory.new_full((memory.shape[0], 1), _start_token(config, default), dtype=torch.long)
    max_length = _max_length(config, "max_length" in kwargs, prefix.shape[1])
    if prefix.shape[1] >= max_length:
        raise ValueError(f"max_length={max_length} leaves no room after a target prefix of {prefix.shape[1]} tokens")
    session = EagerSession(model, memory, attention_mask, _cache(config, max_length, memory.shape[1]))
    pad = config.pad_token_id if config.pad_token_id is not None else (config.eos_token_ids or [0])[0]
    return greedy_search(session, prefix, max_length, config.eos_token_ids, pad)


def _default_mask(ids: torch.Tensor | None, mask: torch.Tensor | None, pad: int | None) -> torch.Tensor | None:
    """Without a mask, padding is what equals the padding token, as in the reference."""
    if mask is not None or ids is None or pad is None or not (ids == pad).any():
        return mask
    return (ids != pad).long()


def _encode(model: T5ForConditionalGeneration, encoder_outputs: Any, **inputs: Any) -> Any:
    if encoder_outputs is None:
        return model.encoder(**inputs, return_dict=True).last_hidden_state
    return encoder_outputs.last_hidden_state if isinstance(encoder_outputs, BaseModelOutput) else encoder_outputs[0]


def _max_length(config: GenerationConfig, asked_for: bool, prefix: int) -> int:
    """The longest target, start token and prefix included; the default length alone counts new tokens only."""
    if config.max_new_tokens is not None:
        return prefix + config.max_new_tokens
    is_default = config.max_length == DEFAULT_MAX_LENGTH and not asked_for
    return prefix + DEFAULT_MAX_LENGTH if is_default else config.max_length


def _start_token(config: GenerationConfig, default: GenerationConfig) -> int:
    for start in (config.decoder_start_token_id, default.decoder_start_token_id, config.bos_token_id):
        if start is not None:
            return start
    raise ValueError("decoder_start_token_id must be set, in the generation configuration or as an argument; T5 uses 0")


def _cache(config: GenerationConfig, max_length: int, source_length: int) -> EncoderDecoderCache | None:
    if not config.use_cache:
        return None
    own: Cache = DynamicCache()
    cross: Cache = DynamicCache()
    if config.cache_implementation == "static":
        own, cross = StaticCache(max_cache_len=max_length), StaticCache(max_cache_len=source_length)
    return EncoderDecoderCache(own, cross)
