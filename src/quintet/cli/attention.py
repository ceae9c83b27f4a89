"""`quintet attention`: what of the source the decoder looks at, as a heat map."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Annotated, Any

import typer

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.loading import dtype_and_rounding, load_text_to_text
from quintet.cli.outputs import Output
from quintet.hub import SHIPPED

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
    model: options.Model = SHIPPED,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .png or a .html file.")],
    target: Annotated[str | None, typer.Option(metavar="TEXT", help="An answer; else the model's own.")] = None,
    layer: Annotated[int | None, typer.Option(min=1, metavar="N", help="One layer; else the mean of all.")] = None,
    head: Annotated[int | None, typer.Option(min=1, metavar="N", help="One head of it; else the mean of all.")] = None,
    precision: Annotated[str | None, typer.Option(metavar="NAME", help="fp32 (default), bf16, int8 or int4.")] = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Draw the cross-attention of an answer, the mean over layers and heads: a row for each of its tokens.

    Examples:

      quintet attention "translate English to German: Hello." -o map.html

      quintet attention "What color is the sky?" -m google/flan-t5-small --layer 8 --head 2 -o map.png
    """
    with in_one_line(debug, "shorten the text"):
        draw = _drawing(output)
        Output(output, overwrite)  # refuses what cannot be written
        if head is not None and layer is None:
            raise Failure("--head needs --layer: each layer has heads of its own")
        weights, source, answer, caption = _attend(model, precision, text, target, layer, head)
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
    name: str, precision: str | None, text: str, target: str | None, layer: int | None, head: int | None
) -> tuple[list[list[float]], list[str], list[str], str]:
    """Weights (target, source), the pieces of both, and a caption."""
    import torch

    from quintet.auto import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    model = load_text_to_text(name, "cpu", *dtype_and_rounding(precision, None, None))
    layers, heads = model.config.num_decoder_layers, model.config.num_heads
    _check_number("--layer", layer, layers)
    _check_number("--head", head, heads)
    inputs = tokenizer(text, return_tensors="pt")
    if target is None:
        labels = model.generate(**inputs, num_beams=1, max_new_tokens=128)[:, 1:]
    else:
        labels = tokenizer(target, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found = model(**inputs, labels=labels, output_attentions=True).cross_attentions
    weights = torch.cat(found)  # (layers, heads, target, source)
    weights = weights.mean(0) if layer is None else weights[layer - 1]
    weights = weights.mean(0) if head is None else weights[head - 1]
    where = f"mean of {layers} layers" if layer is None else f"layer {layer} of {layers}"
    which = f"mean of {heads} heads" if head is None else f"head {head} of {heads}"
    source, answer = (tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in (inputs["input_ids"][0], labels[0]))
    return weights.tolist(), source, answer, f"{name}, {where}, {which}"


def _check_number(option: str, number: int | None, largest: int) -> None:
    if number is not None and number > largest:
        raise Failure(f"{option} must be from 1 to {largest}, got {number}")


def _write_html(path: Path, weights: list[list[float]], source: list[str], answer: list[str], caption: str) -> None:
    darkest = max(map(max, weights))
    rows = "".join(
        f"<tr><th>{html.escape(piece)}</th>{''.join(_cell(weight, darkest) for weight in row)}</tr>"
        for piece, row in zip(answer, weights, strict=True)
    )
    heads = "".join(f"<th>{html.escape(piece)}</th>" for piece in source)
    caption = f"{html.escape(caption)}; the darkest is {darkest:.3f}"
    path.write_text(PAGE.format(caption=caption, source=heads, rows=rows), encoding="utf-8")


def _cell(weight: float, darkest: float) -> str:
    return f'<td title="{weight:.3f}" style="background: rgb(8 48 107 / {weight / darkest:.3f})"></td>'


def _write_png(path: Path, weights: list[list[float]], source: list[str], answer: list[str], caption: str) -> None:
    from matplotlib.figure import Figure

    width = max(2 + 0.35 * len(source), 1 + 0.07 * len(caption))  # inches; room for the caption
    figure = Figure(figsize=(width, 2 + 0.3 * len(answer)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
    plain = {"parse_math": False}  # a dollar is a dollar
    axes.set_xticks(range(len(source)), source, rotation=90, **plain)
    axes.set_yticks(range(len(answer)), answer, **plain)
    figure.suptitle(caption, fontsize="small", **plain)
    figure.colorbar(image, ax=axes, label="weight")
    figure.savefig(path, dpi=150)
