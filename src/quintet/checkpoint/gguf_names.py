"""The names of T5's tensors in GGUF files (llama.cpp's) and in checkpoints: one table, read both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WHOLE = {
    "token_embd": "shared",
    "output": "lm_head",
    "enc.output_norm": "encoder.final_layer_norm",
    "dec.output_norm": "decoder.final_layer_norm",
}
_ATTENTION = {
    "attn_norm": "layer.0.layer_norm",
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
}
_CROSS_ATTENTION = {
    "cross_attn_norm": "layer.1.layer_norm",
    "cross_attn_q": "layer.1.EncDecAttention.q",
    "cross_attn_k": "layer.1.EncDecAttention.k",
    "cross_attn_v": "layer.1.EncDecAttention.v",
    "cross_attn_o": "layer.1.EncDecAttention.o",
    "cross_attn_rel_b": "layer.1.EncDecAttention.relative_attention_bias",
}
_FEED_FORWARD = {"ffn_norm": "layer_norm", "ffn_down": "DenseReluDense.wo"}
_PLAIN = {"ffn_up": "DenseReluDense.wi"}
_GATED = {"ffn_gate": "DenseReluDense.wi_0", "ffn_up": "DenseReluDense.wi_1"}


def _table(gated: bool) -> dict[str, str]:
    """GGUF names to ours, without ".weight", with * for the number of a layer."""
    feed_forward = _FEED_FORWARD | (_GATED if gated else _PLAIN)
    encoder = _ATTENTION | {name: f"layer.1.{ours}" for name, ours in feed_forward.items()}
    decoder = _ATTENTION | _CROSS_ATTENTION | {name: f"layer.2.{ours}" for name, ours in feed_forward.items()}
    return (
        _WHOLE
        | {f"enc.blk.*.{name}": f"encoder.block.*.{ours}" for name, ours in encoder.items()}
        | {f"dec.blk.*.{name}": f"decoder.block.*.{ours}" for name, ours in decoder.items()}
    )


def from_gguf(names: Iterable[str]) -> dict[str, str]:
    """The checkpoint's name for each tensor of a GGUF file; one that is no part of T5 keeps its own."""
    names = list(names)
    table = _table(gated=any(".ffn_gate." in name for name in names))
    return {name: _translated(name, table) for name in names}


def to_gguf(names: Iterable[str]) -> dict[str, str]:
    """The reverse of `from_gguf`."""
    names = list(names)
    table = _table(gated=any(".wi_0." in name for name in names))
    reverse = {ours: theirs for theirs, ours in table.items()}
    return {name: _translated(name, reverse) for name in names}


def _translated(name: str, table: dict[str, str]) -> str:
    """A name looked up without its layer's number, which is put back."""
    match = re.fullmatch(r"((?:enc|dec)\.blk|(?:en|de)coder\.block)\.(\d+)\.(.+)\.weight", name)
    pattern = f"{match[1]}.*.{match[3]}" if match else name.removesuffix(".weight")
    if pattern not in table:
        return name
    return table[pattern].replace("*", match[2] if match else "") + ".weight"
