"""The encoder and the decoder: embedding, blocks, final normalisation.

Everything that layers share is made here once per pass: masks, position biases, head masks, the places in the cache.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from quintet.config import T5Config
from quintet.model import checks, memory
from quintet.model.attention import AttentionBias, choose_backend
from quintet.model.cache import DynamicCache, EncoderDecoderCache
from quintet.model.embeddings import Table
from quintet.model.layers import AttentionInputs, Block
from quintet.model.masks import causal_mask, padding_mask
from quintet.model.norm import RMSNorm
from quintet.model.position import PositionBias, bucket_grid
from quintet.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

logger = logging.getLogger(__name__)


@dataclass
class Pass:
    """One pass through a stack: its input, and what was asked for."""

    embeds: torch.Tensor
    cache: EncoderDecoderCache | None
    positions: torch.Tensor
    need_weights: bool
    need_states: bool

    @property
    def key_length(self) -> int:
        """How many keys self-attention looks at: new ones and cached ones, or all places of a static cache."""
        if self.cache is None:
            return self.embeds.shape[1]
        if self.cache.is_compileable:
            return self.cache.get_max_cache_shape()
        return self.cache.get_seq_length() + self.embeds.shape[1]


@dataclass
class TargetStore:
    """One layer's place in the self-attention cache."""

    cache: EncoderDecoderCache
    layer: int
    positions: torch.Tensor

    def recall(self) -> None:
        """Nothing: every step brings new tokens."""

    def extend(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the new tokens' keys and values; returns those of all tokens."""
        return self.cache.self_attention_cache.update(key, value, self.layer, {"cache_position": self.positions})


@dataclass
class SourceStore:
    """One layer's place in the cross-attention cache: written at the first step, read at the others."""

    cache: EncoderDecoderCache
    layer: int
    source_length: int

    def recall(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The source's keys and values, if an earlier step has computed them."""
        if not self.cache.is_updated.get(self.layer):
            return None
        key, value = self.cache.cross_attention_cache[self.layer]
        return key[:, :, : self.source_length], value[:, :, : self.source_length]

    def extend(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the source's keys and values for the steps to come, laid out once as all of these will read them."""
        key, value = key.contiguous(), value.contiguous()
        self.cache.cross_attention_cache.update(key, value, self.layer)
        self.cache.is_updated[self.layer] = True
        return key, value


class T5Stack(nn.Module):
    """The encoder (`is_decoder=False`) or the decoder of a T5 model.

    `embed_tokens` is shared with the other stack. `forward` takes the arguments of the reference's stack.
    """

    def __init__(self, config: T5Config, embed_tokens: Table, is_decoder: bool) -> None:
        super().__init__()
        self.config = copy.copy(config)
        self.config.is_decoder = is_decoder
        self.config.use_cache = config.use_cache and is_decoder
        self.config.num_layers = config.num_decoder_layers if is_decoder else config.num_layers
        self.is_decoder = is_decoder
        self.gradient_checkpointing = False
        self.backend = choose_backend(config._attn_implementation)
        self.embed_tokens = embed_tokens
        self.block = nn.ModuleList(
            Block(config, is_decoder, has_relative_attention_bias=config.position_bias_per_layer or index == 0)
            for index in range(self.config.num_layers)
        )
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the normalisation weights, which no quantization changes."""
        return self.final_layer_norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the last layer is."""
        return self.final_layer_norm.weight.device

    @property
    def blocks(self) -> Sequence[Block]:
        """The layers, from the input up."""
        return cast(Sequence[Block], self.block)

    def get_input_embeddings(self) -> Table:
        """The token embeddings."""
        return self.embed_tokens

    def set_input_embeddings(self, new_embeddings: Table) -> None:
        """Replace the token embeddings."""
        self.embed_tokens = new_embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        head_mask: torch.Tensor | None = None,
        cross_attn_head_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: torch.Tensor | None = None,
    ) -> BaseModelOutput | BaseModelOutputWithPastAndCrossAttentions | tuple:
        """Token ids (batch, length) or embeddings (batch, length, d_model) to states (batch, length, d_model).

        An encoder returns a BaseModelOutput; a decoder's output also holds its cache and cross-attentions. Raises
        ValueError or IndexError for input that does not fit (see `checks`), TypeError for a foreign cache.
        """
        config = self.config
        embeds = self._embed(input_ids, inputs_embeds)
        cache = self._cache(past_key_values, use_cache, batch=embeds.shape[0])
        this = Pass(
            embeds,
            cache,
            self._positions(embeds, cache) if cache_position is None else cache_position,
            need_weights=config.output_attentions if output_attentions is None else output_attentions,
            need_states=config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        own = self._self_attention(this, attention_mask, head_mask)
        cross = self._cross_attention(this, encoder_hidden_states, encoder_attention_mask, cross_attn_head_mask)
        output = self._run(this, own, cross)
        return output if (config.use_return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _embed(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        prefix = "decoder_" if self.is_decoder else ""
        checks.check_one_given(input_ids, inputs_embeds, (f"{prefix}input_ids", f"{prefix}inputs_embeds"))
        if inputs_embeds is not None:
            checks.check_embeds(inputs_embeds, self.config.d_model, f"{prefix}inputs_embeds")
            return inputs_embeds
        assert input_ids is not None
        checks.check_token_ids(input_ids, self.embed_tokens.num_embeddings, f"{prefix}input_ids")
        return self.embed_tokens(input_ids)

    def _cache(
        self, past: EncoderDecoderCache | None, use_cache: bool | None, batch: int
    ) -> EncoderDecoderCache | None:
        if not self.is_decoder:
            if use_cache:
                raise ValueError("use_cache=True is for decoders: an encoder has no next step")
            return None
        if past is not None:
            if not isinstance(past, EncoderDecoderCache):
                raise TypeError(
                    "past_key_values must be a quintet.EncoderDecoderCache, "
                    f"got {type(past).__module__}.{type(past).__name__}; tuples of tensors become one by "
                    "EncoderDecoderCache.from_legacy_cache"
                )
            if past.batch_size not in (None, batch):
                raise ValueError(f"past_key_values hold a batch of {past.batch_size}, the input one of {batch}")
            return past
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and self.gradient_checkpointing and self.training:
            logger.debug("no cache is kept: gradient checkpointing computes the layers twice")
            return None
        return EncoderDecoderCache(DynamicCache(), DynamicCache()) if use_cache else None

    def _positions(self, embeds: torch.Tensor, cache: EncoderDecoderCache | None) -> torch.Tensor:
        positions = torch.arange(embeds.shape[1], device=embeds.device)
        return positions if cache is None else positions + cache.get_seq_length()

    def _self_attention(
        self, this: Pass, attention_mask: torch.Tensor | None, head_mask: torch.Tensor | None
    ) -> list[AttentionInputs]:
        """What each layer's self-attention needs."""
        self._check_memory(this, masked=attention_mask is not None)
        mask = self._mask(this, attention_mask)
        head_masks = self._head_masks(head_mask, "decoder_head_mask" if self.is_decoder else "head_mask")
        return [
            AttentionInputs(
                bias,
                self.backend,
                this.need_weights,
                head_masks[layer],
                store=None if this.cache is None else TargetStore(this.cache, layer, this.positions),
            )
            for layer, bias in enumerate(self._biases(this, mask))
        ]

    def _cross_attention(
        self,
        this: Pass,
        memory: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        head_mask: torch.Tensor | None,
    ) -> list[AttentionInputs] | None:
        """What each layer's attention over the encoder's states needs; None without such states."""
        if not self.is_decoder or memory is None:
            return None
        batch = this.embeds.shape[0]
        checks.check_embeds(memory, self.config.d_model, "encoder_outputs")
        sharing = None if this.cache is None else this.cache.sharing
        sources = batch if sharing is None else sharing.sources
        if memory.shape[0] != sources:
            raise ValueError(f"the encoder's batch is {memory.shape[0]}, the decoder's {sources}: they must agree")
        checks.check_mask(attention_mask, sources, this.embeds.shape[1], memory.shape[1], "attention_mask")
        bias = AttentionBias(mask=None if attention_mask is None else padding_mask(attention_mask, this.embeds.dtype))
        head_masks = self._head_masks(head_mask, "cross_attn_head_mask")
        return [
            AttentionInputs(
                bias,
                self.backend,
                this.need_weights,
                head_masks[layer],
                memory,
                None if this.cache is None else SourceStore(this.cache, layer, memory.shape[1]),
                sharing,
            )
            for layer in range(len(self.block))
        ]

    def _check_memory(self, this: Pass, masked: bool) -> None:
        """RuntimeError if biases and weights of all pairs of tokens do not fit into the memory of a CPU."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or this.embeds.device.type != "cpu":
            return
        batch, length, _ = this.embeds.shape
        layers = len(self.blocks)
        first = self.blocks[0].self_attention
        learns = torch.is_grad_enabled() and first.relative_attention_bias.weight.requires_grad
        keeps = this.need_weights or (learns and not (self.gradient_checkpointing and self.training))
        rows = batch if masked else 1
        biases = rows * layers if self.config.position_bias_per_layer else rows
        weights = batch if keeps or learns or self.backend == "eager" else 0
        passing = max(rows, weights)  # a bias before it is laid out anew, or scores before they become weights
        arrays = biases + passing + (weights * layers if keeps else weights)
        needed = memory.attention_bytes(length * this.key_length, first.n_heads, this.embeds.element_size(), arrays)
        memory.refuse_what_does_not_fit(needed, f"attention of {batch} x {length:,} tokens")

    def _mask(self, this: Pass, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        if this.cache is None or not this.cache.is_compileable:  # a static cache is longer than what is in it
            name = "decoder_attention_mask" if self.is_decoder else "attention_mask"
            batch, length, _ = this.embeds.shape
            checks.check_mask(attention_mask, batch, length, this.key_length, name)
        if self.is_decoder:
            return causal_mask(attention_mask, this.positions, this.key_length, this.embeds.dtype)
        return None if attention_mask is None else padding_mask(attention_mask, this.embeds.dtype)

    def _biases(self, this: Pass, mask: torch.Tensor | None) -> list[AttentionBias]:
        """One bias per layer; the same object for all layers unless each has its own table."""
        config = self.config
        buckets = bucket_grid(
            this.positions,
            this.key_length,
            not self.is_decoder,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )
        with_table = self.blocks if config.position_bias_per_layer else self.blocks[:1]
        tables = [block.self_attention.relative_attention_bias for block in with_table]
        biases = [AttentionBias(PositionBias(table, buckets), mask) for table in tables]
        return biases if config.position_bias_per_layer else biases * len(self.blocks)

    def _head_masks(self, mask: torch.Tensor | None, name: str) -> list[torch.Tensor | None]:
        """One factor (1, heads, 1, 1) per layer, from (heads,) or (layers, heads)."""
        layers = len(self.block)
        if mask is None:
            return [None] * layers
        checks.check_head_mask(mask, layers, self.config.num_heads, name)
        return list(mask.to(self.dtype).expand(layers, -1)[:, None, :, None, None])

    def _run(
        self, this: Pass, own: list[AttentionInputs], cross: list[AttentionInputs] | None
    ) -> BaseModelOutput | BaseModelOutputWithPastAndCrossAttentions:
        hidden = self.dropout(this.embeds)
        states: list[Any] = []
        weights: list[Any] = []
        cross_weights: list[Any] = []
        for layer, block in enumerate(self.blocks):
            if this.need_states:
                states.append(hidden)
            hidden, *attentions = self._run_block(block, hidden, own[layer], cross[layer] if cross else None)
            if this.need_weights:  # a backend may have made them unasked, and they are large
                weights.append(attentions[0])
                cross_weights.append(attentions[1])
            del attentions
        hidden = self.dropout(self.final_layer_norm(hidden))
        all_states = (*states, hidden) if this.need_states else None
        all_weights = tuple(weights) if this.need_weights else None
        if not self.is_decoder:
            return BaseModelOutput(hidden, all_states, all_weights)
        all_cross_weights = tuple(cross_weights) if this.need_weights and cross else None
        return BaseModelOutputWithPastAndCrossAttentions(hidden, this.cache, all_states, all_weights, all_cross_weights)

    def _run_block(
        self, block: Block, hidden: torch.Tensor, own: AttentionInputs, cross: AttentionInputs | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if not (self.gradient_checkpointing and self.training):
            return block(hidden, own, cross)
        own.bias.dense()  # the layers share it, so it must not be part of what the first of them computes again
        return checkpoint(block, hidden, own, cross, use_reentrant=False)
