"""`quintet bench`: how fast a model is on this machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.loading import load_text_to_text


def bench(
    model: options.ModelArgument,
    *,
    batch_sizes: Annotated[str, typer.Option(metavar="N,N", help="Sources at once.")] = "1,8",
    source_length: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of a source.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=2, metavar="N", help="Tokens of an answer.")] = 64,
    num_beams: Annotated[int, typer.Option(min=1, metavar="N", help="1 is greedy.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Times; the median counts.")] = 3,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    quantize: options.Quantize = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure tokens per second and latency of a model, encoder included, on random sources.

    Example:

      quintet bench google/flan-t5-small --batch-sizes 1,8,32
    """
    with in_one_line(debug):
        import torch

        sizes = _sizes(batch_sizes)
        network = load_text_to_text(model, device, dtype, quantize)
        rows = []
        for size in sizes:
            source = torch.randint(3, network.config.vocab_size, (size, source_length), device=network.device)
            first = _median(network, source, 1, num_beams, rounds)
            whole = _median(network, source, new_tokens, num_beams, rounds)
            rows.append(
                {
                    "batch_size": size,
                    "tokens_per_second": size * new_tokens / whole,
                    "first_token_ms": first * 1000,
                    "next_token_ms": (whole - first) / (new_tokens - 1) * 1000,
                }
            )
        setting = f"{source_length} source and {new_tokens} new tokens, {num_beams} beams, {dtype}"
        facts = {"model": model, "machine": _machine(network.device), "setting": setting, "results": rows}
        typer.echo(json.dumps(facts)) if as_json else Console().print(_table(facts))


def _sizes(given: str) -> list[int]:
    try:
        sizes = [int(size) for size in given.split(",")]
    except ValueError as error:
        raise Failure(f"--batch-sizes must be numbers such as 1,8,32, got {given!r}") from error
    if min(sizes) < 1:
        raise Failure(f"--batch-sizes must be from 1 on, got {given!r}")
    return sizes


def _median(model: Any, source: Any, new_tokens: int, num_beams: int, rounds: int) -> float:
    """Seconds that an answer of `new_tokens` takes, after one that warms up."""
    import torch

    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        model.generate(source, min_new_tokens=new_tokens, max_new_tokens=new_tokens, num_beams=num_beams)
        if source.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _machine(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, PyTorch {torch.__version__}"


def _table(facts: dict[str, Any]) -> Table:
    title = Text(f"{facts['model']}\n{facts['machine']}\n{facts['setting']}")  # a name may hold what is markup to rich
    table = Table(title=title, title_justify="left")
    for column in ("batch", "tokens/s", "first token, ms", "next token, ms"):
        table.add_column(column, justify="right")
    for row in facts["results"]:
        table.add_row(
            str(row["batch_size"]),
            f"{row['tokens_per_second']:.0f}",
            f"{row['first_token_ms']:.1f}",
            f"{row['next_token_ms']:.1f}",
        )
    return table
