"""What `quintet info` tells: a checkpoint's facts, ready for JSON. Headers are read, weights are not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from quintet.cli.loading import inspect_as_saved, tokenizer_files

FLOATS = ("float32", "bfloat16", "float16")
SHOWN = (
    "feed_forward_proj",
    "tie_word_embeddings",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)


def describe(name: str) -> dict[str, Any]:
    """The facts of a checkpoint; raises as `from_pretrained` where it cannot be read."""
    from quintet.config.checks import SIZES
    from quintet.model.inspection import parameters_by_part
    from quintet.model.loading import empty_model

    found = inspect_as_saved(name)
    model, report = found.model, found.report
    config = model.config
    parts = parameters_by_part(empty_model(type(model), config))
    quantization = getattr(config, "quantization_config", None)
    generation = model.generation_config
    return {
        "model": name,
        "variant": _variant(config),
        "class": type(model).__name__,
        "model_type": config.model_type,
        "config": {field: getattr(config, field) for field in (*SIZES, *SHOWN)},
        "position_bias_per_layer": config.position_bias_per_layer,
        "parameters": {"total": sum(parts.values()), **parts},
        "stored": _stored(found.stored),
        "quantization": quantization,
        "memory": _memory(model, quantization),
        "generation": None if generation is None else generation.to_diff_dict(),
        "tasks": config.task_specific_params or {},
        "tokenizer": _tokenizer(name),
        "missing": report.missing,
        "unexpected": report.unexpected,
        "mismatched": {
            key: {"stored": list(have), "needed": list(want)} for key, (have, want) in report.mismatched.items()
        },
    }


def _variant(config: Any) -> dict[str, Any]:
    from quintet.config.variants import variant_of

    variant = variant_of(config)
    return {"name": variant.name, "configured_alike": variant.also, "published_vocab_size": variant.vocab_size}


def _stored(checkpoint: Any) -> dict[str, Any]:
    """Bytes, files, and how many tensors, numbers and bytes are of each type."""
    dtypes: dict[str, dict[str, int]] = {}
    for header in map(checkpoint.header, checkpoint):
        sums = dtypes.setdefault(header.dtype, {"tensors": 0, "numbers": 0, "bytes": 0})
        sums["tensors"] += 1
        sums["numbers"] += header.shape.numel()
        sums["bytes"] += header.nbytes
    files = sorted(path.name for path in checkpoint.files)
    return {"bytes": sum(sums["bytes"] for sums in dtypes.values()), "files": files, "dtypes": dtypes}


def _memory(model: Any, quantization: Any) -> dict[str, dict[str, int]]:
    """Bytes of the weights when loaded: by the rounding of linear layers, and by the dtype of what is not rounded."""
    import torch

    from quintet.model.inspection import bytes_in
    from quintet.model.loading import empty_model
    from quintet.quantize.config import PRESETS

    models = {"floats" if quantization is None else "as saved": model}
    for name, rounding in PRESETS.items() if quantization is None else ():
        with suppress(ValueError):  # its groups do not divide these sizes
            models[name] = empty_model(type(model), model.config, rounding)
    return {
        name: {dtype: bytes_in(rounded, getattr(torch, dtype)) for dtype in FLOATS} for name, rounded in models.items()
    }


def _tokenizer(name: str) -> dict[str, Any] | None:
    try:
        found = tokenizer_files(name)
    except ValueError as error:  # another family's, or damaged: the model is worth describing all the same
        return {"class": None, "files": [], "problem": str(error)}
    return found and {"class": found[0].__name__, "files": found[1]}
