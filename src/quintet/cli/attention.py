"""`quintet attention`: what of the source the decoder looks at, as a heat map."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Annotated, Any

import typer

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.loading import load_text_to_text
from quintet.cli.outputs import refuse_existing

PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Cross-attention</title>
<style>
body {{ font: 14px sans-serif; margin: 2em }}
td {{ width: 2.4em; height: 1.8em }}
th {{ font-weight: normal; text-align: right; padding: 0 .5em; white-space: nowrap }}
thead th {{ writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: .5em 0 }}
</style>
<h1>Cross-attention</h1><p>{caption}</p>
<table><thead><tr><th></th>{source}</tr></thead><tbody>{rows}</tbody></table></html>
"""


def attention(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the model reads.")],
    *,
    model: options.Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .png or a .html file.")],
    target: Annotated[str | None, typer.Option(metavar="TEXT", help="An answer; else the model's own.")] = None,
    layer: Annotated[int | None, typer.Option(min=1, metavar="N", help="One layer; else the mean of all.")] = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Draw the cross-attention of an answer, the mean over heads: a row for each of its tokens.

    Example:

      quintet attention "translate English to German: Hello." -m google/flan-t5-small -o map.html
    """
    with in_one_line(debug):
        draw = _drawing(output)
        refuse_existing(output, overwrite)
        weights, source, answer, caption = _attend(model, text, target, layer)
        draw(output, weights, source, answer, caption)
        typer.echo(str(output))


def _drawing(path: Path) -> Any:
    if path.suffix == ".html":
        return _write_html
    if path.suffix != ".png":
        raise Failure(f"--output must end in .png or .html, got {path}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise Failure('a PNG needs matplotlib: pip install "quintet[plots]"; or write a .html') from error
    return _write_png


def _attend(
    name: str, text: str, target: str | None, layer: int | None
) -> tuple[list[list[float]], list[str], list[str], str]:
    """Weights (target, source), the pieces of both, and a caption."""
    import torch

    from quintet.auto import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(name), load_text_to_text(name, "cpu", "float32", None)
    layers = model.config.num_decoder_layers
    if layer is not None and layer > layers:
        raise Failure(f"--layer must be from 1 to {layers}, got {layer}")
    inputs = tokenizer(text, return_tensors="pt")
    if target is None:
        labels = model.generate(**inputs, num_beams=1, max_new_tokens=128)[:, 1:]
    else:
        labels = tokenizer(target, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found = model(**inputs, labels=labels, output_attentions=True).cross_attentions
    chosen = torch.stack([weights[0].mean(0) for weights in (found if layer is None else found[layer - 1 : layer])])
    where = f"mean of {layers} layers" if layer is None else f"layer {layer} of {layers}"
    source, answer = (tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in (inputs["input_ids"][0], labels[0]))
    return chosen.mean(0).tolist(), source, answer, f"{name}, {where}, mean of heads"


def _write_html(path: Path, weights: list[list[float]], source: list[str], answer: list[str], caption: str) -> None:
    rows = "".join(
        f"<tr><th>{html.escape(piece)}</th>{''.join(_cell(weight) for weight in row)}</tr>"
        for piece, row in zip(answer, weights, strict=True)
    )
    heads = "".join(f"<th>{html.escape(piece)}</th>" for piece in source)
    path.write_text(PAGE.format(caption=html.escape(caption), source=heads, rows=rows), encoding="utf-8")


def _cell(weight: float) -> str:
    return f'<td title="{weight:.3f}" style="background: rgb(33 102 172 / {weight:.3f})"></td>'


def _write_png(path: Path, weights: list[list[float]], source: list[str], answer: list[str], caption: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 0.35 * len(source), 1.8 + 0.3 * len(answer)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(len(source)), source, rotation=90)
    axes.set_yticks(range(len(answer)), answer)
    axes.set_title(caption, fontsize="small")
    figure.colorbar(image, ax=axes, label="weight")
    figure.savefig(path, dpi=150)
