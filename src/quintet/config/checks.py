"""What values a configuration may have. Each refusal names the field, the value, and what is allowed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quintet.config.t5 import T5Config

SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads")
RATES = ("dropout_rate", "classifier_dropout")
FLAGS = ("is_encoder_decoder", "use_cache", "tie_word_embeddings")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
ACTIVATIONS = (
    "relu",
    "gelu",
    "gelu_new",
    "gelu_fast",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "silu",
    "swish",
    "tanh",
    "sigmoid",
    "mish",
    "leaky_relu",
    "relu2",
    "relu6",
    "hardswish",
    "linear",
)
"""Names that may follow in `feed_forward_proj`; `quintet.model.activations` holds a function for each."""

DTYPES = ("float32", "float16", "bfloat16", "float64")


def check(config: T5Config) -> None:
    """Raise ValueError for the first field of `config` that no model can be built from."""
    for name in SIZES:
        _check_integer(name, getattr(config, name), minimum=1)
    for name in RATES:
        _check_number(name, getattr(config, name), 0.0, 1.0)
    for name in FLAGS:
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} must be True or False, got {getattr(config, name)!r}")
    _check_number("layer_norm_epsilon", config.layer_norm_epsilon, 0.0, math.inf)
    _check_number("initializer_factor", config.initializer_factor, 0.0, math.inf)
    _check_relative_attention(config.relative_attention_num_buckets, config.relative_attention_max_distance)
    _check_feed_forward_proj(config.feed_forward_proj)
    _check_token_ids(config)
    _check_pruned_heads(config.pruned_heads)
    _check_task_parameters(config.task_specific_params)
    if config.problem_type is not None and config.problem_type not in PROBLEM_TYPES:
        raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)} or None, got {config.problem_type!r}")


def check_labels(id2label: Any, label2id: Any, num_labels: Any) -> None:
    """Raise ValueError if the label maps are no dictionaries or disagree with `num_labels`."""
    for name, value in (("id2label", id2label), ("label2id", label2id)):
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{name} must be a dictionary, got {type(value).__name__}")
    for index in id2label or ():
        if not str(index).isdecimal():
            raise ValueError(f"the keys of id2label must be class numbers, got {index!r}")
    if num_labels is None:
        return
    _check_integer("num_labels", num_labels, minimum=1)
    if id2label is not None and len(id2label) != num_labels:
        raise ValueError(f"num_labels={num_labels} disagrees with id2label, which has {len(id2label)} entries")


def dtype_name(value: Any) -> str:
    """The short name of a torch dtype, or of its name: `torch.float16` and "torch.float16" give "float16"."""
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {value!r}")
    return name


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_integer(name: str, value: Any, minimum: int) -> None:
    if not _is_integer(value) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        allowed = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise ValueError(f"{name} must be a finite number {allowed}, got {value!r}")


def _check_relative_attention(num_buckets: Any, max_distance: Any) -> None:
    # The encoder gives each direction half of the buckets, and half of those to exact distances: at least one.
    _check_integer("relative_attention_num_buckets", num_buckets, minimum=4)
    _check_integer("relative_attention_max_distance", max_distance, minimum=1)
    exact = num_buckets // 2  # the decoder's: distances below it have a bucket each, the logarithm starts there
    if max_distance <= exact:
        raise ValueError(
            f"relative_attention_max_distance must be greater than {exact}, half of "
            f"relative_attention_num_buckets={num_buckets}, got {max_distance}"
        )


def _check_feed_forward_proj(value: Any) -> None:
    activation = value.removeprefix("gated-") if isinstance(value, str) else None
    if activation not in ACTIVATIONS:
        raise ValueError(
            f'feed_forward_proj must be an activation or "gated-" and an activation, got {value!r}; '
            f"the activations are {', '.join(ACTIVATIONS)}"
        )


def _check_token_ids(config: T5Config) -> None:
    for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        value = getattr(config, name)
        several = name == "eos_token_id" and isinstance(value, (list, tuple))
        if value is not None and not all(map(_is_integer, value if several else [value])):
            what = "a token id (an integer) or None, or a list of ids" if several else "a token id (an integer) or None"
            raise ValueError(f"{name} must be {what}, got {value!r}")
    start = config.decoder_start_token_id
    if start is not None and not 0 <= start < config.vocab_size:
        raise ValueError(f"decoder_start_token_id must be from 0 to {config.vocab_size - 1} or None, got {start!r}")


def _check_pruned_heads(value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(heads, list) for heads in value.values()):
        raise ValueError(f"pruned_heads must be a dictionary of layers and lists of their heads, got {value!r}")


def _check_task_parameters(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(parameters, dict) for parameters in value.values()):
        raise ValueError(f"task_specific_params must have a dictionary for each task, or be None, got {value!r}")
