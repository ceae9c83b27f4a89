"""The figures of benchmarks/cpu.py as tables and as a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TITLES = {
    "first": "Time to first token, ms",
    "greedy": "Greedy, new tokens per second",
    "beams": "4 beams, new tokens per second",
    "encoder": "Encoder alone, ms",
}
COLORS = {
    "float32": "tab:blue",
    "bfloat16": "tab:orange",
    "int8": "tab:green",
    "int8_all": "tab:olive",
    "int4": "tab:red",
    "int4_all": "tab:pink",
}


def figure(row: dict[str, Any], name: str) -> float | None:
    """New tokens per second or, of what is over with the first one, milliseconds; None if it was not measured."""
    if name not in row["seconds"]:
        return None
    seconds = statistics.median(row["seconds"][name])
    return seconds * 1e3 if row["kind"] in ("first", "encoder") else row["batch"] * row["new"] / seconds


def ratio(row: dict[str, Any], name: str) -> float | None:
    """How many times as fast quintet is as its rival; None if there is none."""
    fastest = rival(row, name)
    return None if fastest is None else fastest / statistics.median(row["seconds"][name])


def rival(row: dict[str, Any], name: str) -> float | None:
    """The seconds of the best peer of the same precision; of int4, of quintet's int8.

    The peers' int8 rounds the vocabulary, too, and is the rival of quintet's both.
    """
    library, precision = name.split("-")
    if precision.startswith("int4"):
        rivals = [name.replace("int4", "int8")]
    else:
        ending = f"-{precision.removesuffix('_all')}"
        rivals = [other for other in row["seconds"] if not is_quintet(other) and other.endswith(ending)]
    times = [statistics.median(row["seconds"][rival]) for rival in rivals if rival in row["seconds"]]
    if library != "quintet" or name not in row["seconds"] or not times:
        return None
    return min(times)


def is_quintet(name: str) -> bool:
    """Whether that is a contestant of ours."""
    return name.startswith("quintet-")


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """The figures and ratios of a case's times."""
    return {
        "unit": "ms" if row["kind"] in ("first", "encoder") else "tokens/s",
        "figures": {name: figure(row, name) for name in row["seconds"]},
        "ratios": {name: times for name in row["seconds"] if (times := ratio(row, name)) is not None},
    }


# -- on the terminal


def print_report(console: Console, figures: dict[str, Any]) -> None:
    """A table for each model and kind of case, then memory and the machine's limits."""
    for model in dict.fromkeys(row["model"] for row in figures["rows"]):
        for kind, title in TITLES.items():
            rows = [row for row in figures["rows"] if (row["model"], row["kind"]) == (model, kind)]
            if rows:
                console.print(_table(f"T5-{model}: {title}", rows))
    console.print("In brackets: times as fast as the best peer of the same precision; int4: as quintet's int8.\n")
    if figures["memory"]:
        console.print(_memory_table(figures["memory"]))
    if figures["shares"]:
        console.print(_share_table(figures["shares"]))
    if limits := figures["limits"]:
        rates = ", ".join(f"{name} {limits[name] / 1e9:.0f}" for name in ("float32", "bfloat16", "int8"))
        console.print(f"Machine: reads {limits['read'] / 1e9:.1f} GB/s; matrix products, GOP/s: {rates}")
    for model, same in figures["same_tokens"].items():
        text = ", ".join(f"{name} {share:.0%}" for name, share in same.items())
        different = figures["different_tokens"][model]
        console.print(f"T5-{model}: {different:.0f} different tokens in an answer. Like {next(iter(same))}'s: {text}")


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(row["case"], justify="right")
    for name in dict.fromkeys(name for row in rows for name in row["seconds"]):
        table.add_row(name, *(_cell(row, name) for row in rows))
    return table


def _cell(row: dict[str, Any], name: str) -> str:
    value, times = figure(row, name), ratio(row, name)
    if value is None:
        return "-"
    return f"{value:.0f}" if times is None else f"{value:.0f} ({times:.2f})"


def _memory_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Memory over an interpreter with torch, MB: at most, and after an answer", title_justify="left")
    for header in ("", "model", "case", "peak", "after"):
        table.add_column(header, justify="right" if header in ("peak", "after") else "left")
    for row in rows:
        sizes = (f"{row[key] / 1e6:.0f}" for key in ("peak", "after"))
        table.add_row(row["name"], row["model"], row["case"], *sizes)
    return table


def _share_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="quintet's share of the machine's limits", title_justify="left")
    for header in ("", "model", "case", "of", "share"):
        table.add_column(header)
    for row in rows:
        allowed = f": {row['allows']:.0f} tokens/s" if "allows" in row else ""
        times = f" ({row['ratio']:.2f} times the rival's)" if row.get("ratio") else ""
        case = f"{row['kind']} {row['case']}"
        table.add_row(row["name"], row["model"], case, f"{row['of']}{allowed}{times}", f"{row['share']:.0%}")
    return table


# -- as a picture


def plot(figures: dict[str, Any], path: Path) -> None:
    """Bars: a line of panels for each model and kind of case, a panel for each case. Raises ValueError for no cases."""
    from matplotlib.figure import Figure

    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in figures["rows"]:
        lines.setdefault((row["model"], row["kind"]), []).append(row)
    if not lines:
        raise ValueError("there are no cases to draw: memory is only in the table")
    picture = Figure(figsize=(14, 3 * len(lines)), layout="constrained")
    parts = picture.subfigures(len(lines), 1, squeeze=False)[:, 0]
    for part, ((model, kind), rows) in zip(parts, lines.items(), strict=True):
        part.suptitle(f"T5-{model}: {TITLES[kind]}")
        for number, (axes, row) in enumerate(zip(part.subplots(1, len(rows), squeeze=False)[0], rows, strict=True)):
            names = list(row["figures"])
            axes.barh(names, list(row["figures"].values()), color=[COLORS[name.split("-")[1]] for name in names])
            axes.invert_yaxis()
            axes.set_xlabel(row["case"])
            axes.tick_params(axis="y", labelsize="small", labelleft=number == 0)
    picture.savefig(path, dpi=120)
