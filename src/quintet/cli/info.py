"""`quintet info`: what a checkpoint is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from quintet.cli import options
from quintet.cli.failures import in_one_line


def info(model: options.ModelArgument, *, as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what a checkpoint is: its variant, its sizes, the memory it takes, and what it lacks. Reads headers only.

    Example:

      quintet info google/flan-t5-small
    """
    with in_one_line(debug):
        from quintet.cli.facts import describe

        facts = describe(model)
        if as_json:
            Console(soft_wrap=True).print_json(json.dumps(facts))
        else:
            Console(highlight=False).print(_page(facts))


def _page(facts: dict[str, Any]) -> Group:
    """All facts: what is said in words, then the tables of numbers, side by side where the terminal is wide enough."""
    numbers = Columns([_parameters(facts["parameters"]), _memory(facts["memory"])], padding=(0, 4))
    return Group(_words(facts), "", numbers)


def _words(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(facts):
        wrong = label in ("missing", "mismatched") and bool(facts[label])
        table.add_row(label, Text(value, style="red" if wrong else ""))  # Text: names may hold what is markup to rich
    return table


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "variant", _variant(facts["variant"])
    yield "class", f"{facts['class']} ({facts['model_type']})"
    yield from _network(facts)
    yield "stored", _stored(facts["stored"])
    if rounded := facts["quantization"]:
        shared = f"each {rounded['group_size']} inputs" if rounded["group_size"] else "all inputs of an output"
        vocabulary = f"; the vocabulary to {bits} bits" if (bits := rounded.get("vocabulary_bits")) else ""
        yield "quantized", f"to {rounded['bits']} bits, a scale for {shared}{vocabulary}"
    yield "tokenizer", _tokenizer(facts["tokenizer"])
    if facts["generation"] is not None:
        yield "generation", ", ".join(f"{name} {value}" for name, value in facts["generation"].items()) or "defaults"
    if facts["tasks"]:
        yield "tasks", "\n".join(f"{task} {values.get('prefix', '')!r}" for task, values in facts["tasks"].items())
    yield "missing", _names(facts["missing"])
    yield "unexpected", _names(facts["unexpected"])
    if sizes := facts["mismatched"]:
        yield "mismatched", _names([f"{name} {size['stored']}, not {size['needed']}" for name, size in sizes.items()])


def _variant(variant: dict[str, Any]) -> str:
    alike = variant["configured_alike"]
    return f"{variant['name']} or {alike} (their configurations are equal)" if alike else variant["name"]


def _network(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    config = facts["config"]
    decoder = f", {config['num_decoder_layers']} decoder" if facts["parameters"]["decoder"] else ""
    yield "layers", f"{config['num_layers']} encoder{decoder}"
    yield (
        "sizes",
        f"d_model {config['d_model']}, d_ff {config['d_ff']}, {config['num_heads']} heads of {config['d_kv']}",
    )
    yield "feed forward", config["feed_forward_proj"]
    owner = "a bias in each layer" if facts["position_bias_per_layer"] else "one bias for all layers"
    reach = f"{config['relative_attention_num_buckets']} buckets to {config['relative_attention_max_distance']} tokens"
    yield "positions", f"{reach}, {owner}"
    output = (
        "" if facts["generation"] is None else ", output tied" if config["tie_word_embeddings"] else ", output untied"
    )
    rows, published = config["vocab_size"], facts["variant"]["published_vocab_size"]
    yield "vocabulary", f"{rows:,}" + ("" if rows == published else f" (published: {published:,})") + output


def _stored(stored: dict[str, Any]) -> str:
    dtypes = stored["dtypes"]
    held = ", ".join(f"{_size(sums['bytes'])} {dtype}" for dtype, sums in dtypes.items())
    files = stored["files"]
    return f"{held} in {files[0]}" if len(files) == 1 else f"{held} in {len(files)} files"


def _tokenizer(tokenizer: dict[str, Any] | None) -> str:
    if tokenizer is None:
        return "none found"
    return tokenizer.get("problem") or f"{tokenizer['class']} ({', '.join(tokenizer['files'])})"


def _names(names: list[str]) -> str:
    more = [f"and {len(names) - 5:,} more"] if names[5:] else []
    return "\n".join([*names[:5], *more]) or "nothing"


def _numbers(*columns: str) -> Table:
    """An empty table of a column of words and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _parameters(parameters: dict[str, int]) -> Table:
    table = _numbers("parameters", f"{parameters['total']:,}", "")
    for part, count in parameters.items():
        if part != "total" and count:
            table.add_row(part, f"{count:,}", f"{count / parameters['total']:.0%}")
    return table


def _memory(memory: dict[str, dict[str, int]]) -> Table:
    """Rows: how linear layers are rounded. Columns: the dtype of everything else."""
    table = _numbers("memory", *next(iter(memory.values())))
    for rounding, sizes in memory.items():
        table.add_row(rounding, *map(_size, sizes.values()))
    return table


def _size(nbytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= 10 * factor:
            return f"{nbytes / factor:,.0f} {unit}"
        if nbytes >= factor:
            return f"{nbytes / factor:.1f} {unit}"
    return f"{nbytes / 1e3:.0f} kB"
