"""Export a T5 model to ONNX: an encoder, and a decoder step with its keys and values as inputs and outputs.

    pip install onnx onnxscript onnxruntime
    python examples/export_onnx.py google/flan-t5-small flan-t5-small-onnx

encoder.onnx: input_ids and attention_mask (batch, source) to last_hidden_state and, per layer, the keys and values of
the source. decoder.onnx: decoder_input_ids (batch, 1), attention_mask, the keys and values so far (none at first:
length 0) and those of the source, to logits (batch, 1, vocabulary) and the keys and values with the new token's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import quintet

ANY = torch.export.Dim.DYNAMIC


def names(prefix: str, layers: int) -> list[str]:
    """The names of the keys and values of all layers, as they follow each other."""
    return [f"{prefix}.{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]


def flat(cache: Any) -> list[torch.Tensor]:
    return [tensor for layer in cache for tensor in layer]


def cache_of(tensors: Sequence[torch.Tensor]) -> quintet.DynamicCache:
    return quintet.DynamicCache(zip(tensors[::2], tensors[1::2], strict=True))


class Encoder(nn.Module):
    """The encoder, and what the decoder's layers keep of its states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        states = self.model.encoder(input_ids, attention_mask).last_hidden_state
        start = torch.zeros_like(input_ids[:, :1])
        cache = self.model.decoder(start, encoder_hidden_states=states, use_cache=True).past_key_values
        return states, *flat(cache.cross_attention_cache)


class Step(nn.Module):
    """One step of the decoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        decoder_input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past: list[torch.Tensor],
        source: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        cache = quintet.EncoderDecoderCache(cache_of(past), cache_of(source))
        # Only the shape of the encoder's states is read: their keys and values are there.
        states = source[0].new_zeros(()).expand(*attention_mask.shape, self.model.config.d_model)
        output = self.model(
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=(states,),
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits, *flat(cache.self_attention_cache)


def export(model: Any, folder: Path) -> None:
    """Write encoder.onnx and decoder.onnx into a folder; batch and lengths stay open."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    layers = config.num_decoder_layers
    ids, mask = torch.randint(3, config.vocab_size, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    torch.onnx.export(
        Encoder(model).eval(),
        (ids, mask),
        folder / "encoder.onnx",
        dynamo=True,
        verbose=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state", *names("source", layers)],
        dynamic_shapes=({0: ANY, 1: ANY}, {0: ANY, 1: ANY}),
    )
    heads = config.num_heads, config.d_kv
    past = [torch.randn(2, heads[0], 3, heads[1]) for _ in range(2 * layers)]
    source = [torch.randn(2, heads[0], 7, heads[1]) for _ in range(2 * layers)]
    kept = [{0: ANY, 2: ANY}] * (2 * layers)
    torch.onnx.export(
        Step(model).eval(),
        (ids[:, :1], mask, past, source),
        folder / "decoder.onnx",
        dynamo=True,
        verbose=False,
        input_names=["decoder_input_ids", "attention_mask", *names("past", layers), *names("source", layers)],
        output_names=["logits", *names("present", layers)],
        dynamic_shapes=({0: ANY}, {0: ANY, 1: ANY}, kept, kept),
    )


if __name__ == "__main__":
    export(quintet.AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1]), Path(sys.argv[2]))
