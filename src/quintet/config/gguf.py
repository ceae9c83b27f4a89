"""A configuration from the header of a GGUF file, which says the sizes; the variant shows in which tensors it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from quintet.files.gguf import read_gguf_header

ARCHITECTURES = {"t5": "T5ForConditionalGeneration", "t5encoder": "T5EncoderModel"}
"""llama.cpp's names of what it can run, and the class each is."""

FIELDS = {
    "context_length": "n_positions",
    "embedding_length": "d_model",
    "feed_forward_length": "d_ff",
    "block_count": "num_layers",
    "decoder_block_count": "num_decoder_layers",
    "attention.head_count": "num_heads",
    "attention.key_length": "d_kv",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
    "attention.relative_buckets_count": "relative_attention_num_buckets",
    "decoder_start_token_id": "decoder_start_token_id",
}
"""Metadata, after the architecture's name and a dot, and the fields of a configuration."""

TOKENS = {"tokenizer.ggml.eos_token_id": "eos_token_id", "tokenizer.ggml.padding_token_id": "pad_token_id"}


def gguf_config(path: Path) -> dict[str, Any]:
    """What a config.json would say of the model in a GGUF file.

    The format has no place for the activation: a gate means tanh GELU, none ReLU, as llama.cpp takes it; nor for the
    largest relative distance, which is 128 in all published models. An output layer of its own means untied; position
    biases beyond the first layer mean UMT5. Raises OSError for a damaged file, ValueError for another architecture.
    """
    header = read_gguf_header(path)
    architecture = header.fields.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path} holds a model of the architecture {architecture!r}; supported: {', '.join(ARCHITECTURES)}"
        )
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    keys = {f"{architecture}.{key}": name for key, name in FIELDS.items()} | TOKENS
    values = {name: _tidy(header.fields[key]) for key, name in keys.items() if key in header.fields}
    return {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": "umt5" if "enc.blk.1.attn_rel_b.weight" in shapes else "t5",
        "feed_forward_proj": "gated-gelu" if "enc.blk.0.ffn_gate.weight" in shapes else "relu",
        "tie_word_embeddings": "output.weight" not in shapes,
        "decoder_start_token_id": 0,
        **_counted(shapes, path),
        **values,
    }


def _counted(shapes: dict[str, tuple[int, ...]], path: Path) -> dict[str, int]:
    """Sizes that the tensors show."""
    if "token_embd.weight" not in shapes:
        raise ValueError(f"{path} holds no token embeddings (token_embd.weight)")
    counted = {"vocab_size": shapes["token_embd.weight"][0]}
    layers = [int(match[1]) for name in shapes if (match := re.match(r"dec\.blk\.(\d+)\.", name))]
    return counted | ({"num_decoder_layers": max(layers) + 1} if layers else {})


def _tidy(value: Any) -> Any:
    """A number as it was written before it became a float32: 1e-06, not 9.999999974752427e-07."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
