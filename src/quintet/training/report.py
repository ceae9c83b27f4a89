"""A run as one HTML file: its curves, what the model answered, its settings. Nothing in it is loaded from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quintet.files import staged
from quintet.training.evaluation import Evaluation, Sample
from quintet.training.logs import read_log
from quintet.training.loop import Run, Step
from quintet.training.settings import flatten

REPORT = "report.html"
SAMPLES = 20
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 200, 70, 24

PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 2em; max-width: 60em }}
figure {{ display: inline-block; margin: 0 1em 1em 0 }}
svg {{ background: #fafafa }}
polyline {{ fill: none; stroke: #08306b; stroke-width: 1.5 }}
circle {{ fill: #08306b }}
line {{ stroke: #ccc }}
text {{ font-size: 11px; fill: #555 }}
td, th {{ text-align: left; vertical-align: top; padding: .2em 1em .2em 0; border-top: 1px solid #ddd }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<h2>Curves</h2>
{curves}
<h2>Answers</h2>
{answers}
<h2>Settings</h2>
<table>{settings}</table>
</html>
"""


class Report:
    """Writes report.html into a run's folder: after each evaluation, and in the end."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._samples: list[Sample] = []

    def stepped(self, run: Run, step: Step) -> None:
        """Nothing: curves come from the log."""

    def evaluated(self, run: Run, found: Evaluation) -> None:
        """Write it anew, with these answers."""
        self._samples = found.samples
        self._write()

    def close(self) -> None:
        """Write it a last time."""
        self._write()

    def _write(self) -> None:
        if self._run.world.is_main:
            folder = Path(self._run.config.run.output_dir)
            page = render(self._run, read_log(folder), self._samples)
            with staged(folder) as staging:
                (staging / REPORT).write_text(page, encoding="utf-8")


def render(run: Run, log: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> str:
    """The page, of a log's records and samples."""
    names = dict.fromkeys(name for record in log for name in record if name not in ("step", "epoch"))
    curves = {name: [(record["step"], record[name]) for record in log if name in record] for name in names}
    progress = run.progress
    best = "" if progress.best is None else f" The best was step {progress.best_step}, with {progress.best:.4g}."
    parameters = f"{run.model.num_parameters():,} parameters"
    return PAGE.format(
        title=html.escape(run.config.run.output_dir),
        summary=f"Step {progress.step:,} of {run.config.optimizer.max_steps:,}; {parameters}.{best}",
        curves="\n".join(curve(name, points) for name, points in curves.items()),
        answers=_answers(samples),
        settings="".join(_row(name, json.dumps(value)) for name, value in flatten(run.config).items()),
    )


def curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    """A figure of (step, value) pairs: steps to the right; the smallest and the largest value are labelled."""
    steps, values = zip(*points, strict=True)
    first, last, low, high = min(steps), max(steps), min(values), max(values)

    def place(step: float, value: float) -> tuple[float, float]:
        along = (step - first) / (last - first) if last > first else 0.5
        up = (value - low) / (high - low) if high > low else 0.5
        return LEFT + along * (WIDTH - LEFT - 10), 10 + (1 - up) * (HEIGHT - BOTTOM - 20)

    places = [place(*point) for point in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"><title>step {step}: {value:.6g}</title></circle>'
        for (x, y), (step, value) in zip(places, points, strict=True)
    )
    levels = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        for value in dict.fromkeys((high, low))
        for _, y in [place(first, value)]
    )
    ends = f'<text x="{LEFT}" y="{HEIGHT - 6}">step {first}</text>'
    ends += f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>'
    return (
        f'<figure><figcaption>{html.escape(name)}</figcaption><svg width="{WIDTH}" height="{HEIGHT}">'
        f'{levels}<polyline points="{line}"/>{dots}{ends}</svg></figure>'
    )


def _answers(samples: Sequence[Sample]) -> str:
    if not samples:
        return "<p>None: there was no evaluation with a metric.</p>"
    step = max(len(samples) // SAMPLES, 1)
    rows = (_row(one.source, one.answer, " / ".join(one.references)) for one in samples[::step][:SAMPLES])
    return "<table><tr><th>source</th><th>answer</th><th>references</th></tr>" + "".join(rows) + "</table>"


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
