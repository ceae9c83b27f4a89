"""How much of what the machine allows quintet reaches, from the figures of benchmarks/cpu.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from cpu_cases import SHAPES, VOCABULARY
from cpu_report import is_quintet, rival


def shares(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the bandwidth in decoding, of the products in encoding, and of both in whole answers."""
    return [*_of_reading(figures), *_of_products(figures), *_of_answers(figures)]


def _of_reading(figures: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of one row: the weights a step reads, over the time of a step, which is what tokens after the first take."""
    for row in figures["rows"]:
        firsts = [other for other in figures["rows"] if other["kind"] == "first" and _same_source(other, row)]
        if row["kind"] != "greedy" or not firsts:
            continue
        for name in filter(is_quintet, row["seconds"]):
            whole, first = (statistics.median(part["seconds"][name]) for part in (row, firsts[0]))
            step = (whole - first) / (row["new"] - 1)
            reached = figures["step_bytes"][row["model"]][name] / step
            yield {**_named(row, name), "of": "read bandwidth", "share": reached / row["limits"]["read"]}


def _of_products(figures: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The time that the products would take at the machine's peak, over the time taken."""
    for row in figures["rows"]:
        if row["kind"] == "encoder":
            for name in filter(is_quintet, row["seconds"]):
                share = _encoding(row, name) / statistics.median(row["seconds"][name])
                yield {**_named(row, name), "of": "matrix-product peak", "share": share}


def _of_answers(figures: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The time of a whole answer at the machine's limits, over the time taken.

    With it, how many times the rival's speed that would be: more is out of reach, as long as weights come from memory
    and not from a cache.
    """
    for row in figures["rows"]:
        if row["kind"] not in ("greedy", "beams"):
            continue
        for name in filter(is_quintet, row["seconds"]):
            best = _encoding(row, name) + _decoding(row, name, figures["step_bytes"][row["model"]][name])
            fastest = rival(row, name)
            yield {
                **_named(row, name),
                "of": "what the machine allows",
                "share": best / statistics.median(row["seconds"][name]),
                "allows": row["batch"] * row["new"] / best,
                "ratio": None if fastest is None else fastest / best,
            }


def _encoding(row: dict[str, Any], name: str) -> float:
    """Seconds of the encoder's products at the peak; reading its weights, which short sources wait for, is left out.

    Queries with keys, and weights with values, stay in bfloat16 where matrices are of integers.
    """
    shape = SHAPES[row["model"]]
    inner, tokens = shape["num_heads"] * shape["d_kv"], row["batch"] * row["source"]
    weights = shape["d_model"] * (4 * inner + 2 * shape["d_ff"])
    among_tokens = 4 * tokens * row["source"] * inner * shape["num_layers"]
    floats = row["limits"]["float32" if name.endswith("-float32") else "bfloat16"]
    return 2 * tokens * weights * shape["num_layers"] / _peak(row, name) + among_tokens / floats


def _decoding(row: dict[str, Any], name: str, step_bytes: int) -> float:
    """Seconds of the sources' keys and values and of all steps: of each what takes longer, its products at the peak or
    reading its weights, keys and values once."""
    shape = SHAPES[row["model"]]
    inner, layers = shape["num_heads"] * shape["d_kv"], shape["num_layers"]
    tokens, rows = row["batch"] * row["source"], row["batch"] * row["beams"]
    per_token = 2 * layers * inner * (4 if name.endswith("-float32") else 2)  # bytes of keys and values
    weights = layers * shape["d_model"] * (6 * inner + 2 * shape["d_ff"]) + shape["d_model"] * VOCABULARY
    products = 2 * rows * weights / _peak(row, name)
    seconds = 2 * tokens * shape["d_model"] * 2 * inner * layers / _peak(row, name)
    for step in range(row["new"]):
        read = step_bytes + per_token * (tokens + rows * (step + 1))
        seconds += max(products, read / row["limits"]["read"])
    return seconds


def _peak(row: dict[str, Any], name: str) -> float:
    """Operations per second of a contestant's products."""
    precision = name.split("-")[1]
    return row["limits"]["int8" if precision.startswith("int") else precision]


def _same_source(first: dict[str, Any], row: dict[str, Any]) -> bool:
    return all(first[key] == row[key] for key in ("model", "batch", "source"))


def _named(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {"model": row["model"], "kind": row["kind"], "case": row["case"], "name": name}
