"""`quintet info`: what a checkpoint is."""

from __future__ import annotations

import json
import logging
from typing import Any

from rich.console import Console
from rich.table import Table

from quintet.cli import options
from quintet.cli.failures import in_one_line
from quintet.cli.loading import load_as_saved


def info(model: options.ModelArgument, *, as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what a checkpoint is: its variant, its sizes, the memory it takes, and what it lacks.

    Example:

      quintet info google/flan-t5-small
    """
    with in_one_line(debug):
        facts = describe(model)
        if as_json:
            Console(soft_wrap=True).print_json(json.dumps(facts))
        else:
            Console().print(_table(facts))


def describe(name: str) -> dict[str, Any]:
    """The facts. Weights are mapped, not read: their headers say enough."""
    logging.getLogger("quintet.model.loading").setLevel(logging.ERROR)  # what is missing is among the facts
    model, report = load_as_saved(name, dtype="auto")
    config = model.config
    return {
        "model": name,
        "class": type(model).__name__,
        "model_type": config.model_type,
        "feed_forward": config.feed_forward_proj,
        "tied_embeddings": config.tie_word_embeddings,
        "layers": [config.num_layers, config.num_decoder_layers],
        "d_model": config.d_model,
        "d_ff": config.d_ff,
        "heads": [config.num_heads, config.d_kv],
        "vocabulary": config.vocab_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": model.num_parameters(),
        "bytes": _sizes(model),
        "tokenizer": _tokenizer(name),
        "missing": report["missing_keys"],
        "unexpected": report["unexpected_keys"],
    }


def _sizes(model: Any) -> dict[str, int]:
    """The weights' bytes at each precision; rounded ones as `from_pretrained` would round them (the rest float32)."""
    import torch

    from quintet.quantize import QuantizedLinear, replace_linears
    from quintet.quantize.config import PRESETS

    if any(isinstance(module, QuantizedLinear) for module in model.modules()):
        return {"as saved": _nbytes(model)}
    count = model.num_parameters()
    sizes = {"float32": 4 * count, "bfloat16": 2 * count}
    for precision, rounding in PRESETS.items():
        with torch.device("meta"):
            empty = type(model)(model.config)
            try:
                replace_linears(empty, rounding)
            except ValueError:  # its groups do not divide these sizes
                continue
        sizes[precision] = _nbytes(empty)
    return sizes


def _nbytes(model: Any) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def _tokenizer(name: str) -> str | None:
    from quintet.auto import AutoTokenizer

    try:
        return type(AutoTokenizer.from_pretrained(name)).__name__
    except (OSError, ValueError):
        return None


def _table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    encoder, decoder = facts["layers"]
    heads, d_kv = facts["heads"]
    tied = "tied" if facts["tied_embeddings"] else "untied"
    rows = {
        "class": f"{facts['class']} ({facts['model_type']})",
        "layers": f"{encoder} encoder, {decoder} decoder",
        "sizes": f"d_model {facts['d_model']}, d_ff {facts['d_ff']}, {heads} heads of {d_kv}",
        "feed forward": facts["feed_forward"],
        "vocabulary": f"{facts['vocabulary']:,}, output {tied}",
        "parameters": f"{facts['parameters']:,} in {facts['dtype']}",
        "memory": _memory(facts["bytes"]),
        "tokenizer": facts["tokenizer"] or "none found",
        "missing": _names(facts["missing"]),
        "unexpected": _names(facts["unexpected"]),
    }
    for label, value in rows.items():
        table.add_row(label, value)
    return table


def _memory(sizes: dict[str, int]) -> str:
    shown = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in sizes.items())
    return f"{shown} (what is not rounded in float32)" if "int8" in sizes else shown


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, and {len(names) - 5} more" if len(names) > 5 else shown or "nothing"
