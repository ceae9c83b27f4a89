"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A folder, or a name on the Hub.")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="A folder, or a name on the Hub; quintet-mini, in the package: English to French or German, and back.",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEV", help="cpu, cuda, cuda:1, or a CUDA number (-1: CPU).")]
Dtype = Annotated[
    str | None, typer.Option(metavar="TYPE", help="float32 (default), bfloat16, float16, or auto (as saved).")
]
Quantize = Annotated[str | None, typer.Option(metavar="BITS", help="Round the weights while loading: int8 or int4.")]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="fp32, bf16, int8 or int4 (both compute in bfloat16): --dtype and --quantize in one.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
