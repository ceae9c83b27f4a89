"""`quintet bench`: how fast a model is on this machine."""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.loading import dtype_and_rounding, load_text_to_text

CPU_NAMES = {"Linux": ["lscpu"], "Darwin": ["sysctl", "-n", "machdep.cpu.brand_string"]}
"""The program of each system that tells what its processor is called."""


def bench(
    model: options.ModelArgument,
    *,
    batch_sizes: Annotated[str, typer.Option(metavar="N,N", help="How many sources are decoded together.")] = "1,8",
    source_length: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of a source.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=2, metavar="N", help="Tokens of an answer.")] = 64,
    num_beams: Annotated[int, typer.Option(min=1, metavar="N", help="1 is greedy.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How often to measure; the median counts.")] = 3,
    device: options.Device = "cpu",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="fp32, bf16, int8 or int4, for --dtype and --quantize; several are compared."
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="float32 (default), bfloat16, float16 or auto; several are compared."),
    ] = None,
    quantize: options.Quantize = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure tokens per second and latency of a model, encoder included, on random sources.

    Each figure is the median of some rounds, after one that warms up.

    Examples:

      quintet bench google/flan-t5-small --batch-sizes 1,8,32

      quintet bench google/flan-t5-small --precision fp32 --precision int8
    """
    with in_one_line(debug, "lower --batch-sizes, --source-length or --new-tokens"):
        given = itertools.product(precision or (None,), dtype or (None,))
        choices = dict.fromkeys(dtype_and_rounding(*pair, quantize) for pair in given)
        sizes = _sizes(batch_sizes)
        _check_dtypes(name for name, _ in choices)
        rows = []
        for choice in choices:
            network = load_text_to_text(model, device, *choice)
            machine = _machine(network.device)
            rows += [_measure(network, size, source_length, new_tokens, num_beams, rounds) for size in sizes]
            del network  # before the next is loaded
        beams = "1 beam" if num_beams == 1 else f"{num_beams} beams"
        setting = f"{source_length} source and {new_tokens} new tokens, {beams}"
        rows.sort(key=lambda row: sizes.index(row["batch_size"]))
        facts = {"model": model, "machine": machine, "setting": setting, "results": rows}
        typer.echo(json.dumps(facts)) if as_json else Console().print(_report(facts))


def _sizes(given: str) -> list[int]:
    try:
        sizes = [int(size) for size in given.split(",")]
    except ValueError as error:
        raise Failure(f"--batch-sizes must be numbers such as 1,8,32, got {given!r}") from error
    if min(sizes) < 1:
        raise Failure(f"--batch-sizes must be from 1 on, got {given!r}")
    return sizes


def _check_dtypes(names: Iterable[str]) -> None:
    """Before the first is measured, which takes its time."""
    from quintet.config.checks import dtype_name

    for name in names:
        if name != "auto":
            dtype_name(name)


def _measure(
    network: Any, batch_size: int, source_length: int, new_tokens: int, num_beams: int, rounds: int
) -> dict[str, Any]:
    import torch

    source = torch.randint(3, network.config.vocab_size, (batch_size, source_length), device=network.device)
    first = _median(network, source, 1, num_beams, rounds)
    whole = _median(network, source, new_tokens, num_beams, rounds)
    rounding = getattr(network.config, "quantization_config", None)
    return {
        "batch_size": batch_size,
        "dtype": str(network.dtype).removeprefix("torch."),
        "quantization": rounding and f"int{rounding['bits']}",
        "tokens_per_second": batch_size * new_tokens / whole,
        "first_token_ms": first * 1000,
        "next_token_ms": (whole - first) / (new_tokens - 1) * 1000,
    }


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
    threads, cores = torch.get_num_threads(), os.cpu_count()
    used = f"{threads} {'thread' if threads == 1 else 'threads'} on {cores} {'core' if cores == 1 else 'cores'}"
    return f"{processor()}, {used}, PyTorch {torch.__version__}"


def processor() -> str:
    """What the processor is called; where no program says so, its architecture."""
    unnamed = platform.processor() or platform.machine()
    command = CPU_NAMES.get(platform.system())
    if command is None:
        return unnamed
    try:
        said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    except OSError:  # no such program
        return unnamed
    fields = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    name = fields.get("Model name", "" if fields else said).strip()
    return name if name.strip("-") else unnamed


def _report(facts: dict[str, Any]) -> Group:
    title = Text(f"{facts['model']}\n{facts['machine']}\n{facts['setting']}")  # a name may hold what is markup to rich
    table = Table()
    for column in ("batch", "weights", "tokens/s", "first token, ms", "next token, ms"):
        table.add_column(column, justify="left" if column == "weights" else "right")
    for row in facts["results"]:
        table.add_row(
            str(row["batch_size"]),
            ", ".join(filter(None, (row["quantization"], row["dtype"]))),
            f"{row['tokens_per_second']:,.1f}",
            f"{row['first_token_ms']:.1f}",
            f"{row['next_token_ms']:.1f}",
        )
    return Group(title, table)
