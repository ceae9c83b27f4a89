"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A folder, or a name on the Hub.")]
Model = Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="A folder, or a name on the Hub.")]
Device = Annotated[str, typer.Option(metavar="DEV", help="Or cuda, cuda:1; a number is CUDA's, -1 the CPU.")]
Dtype = Annotated[str, typer.Option(metavar="TYPE", help="Or bfloat16, float16, auto (the checkpoint's).")]
Quantize = Annotated[str | None, typer.Option(metavar="BITS", help="Round weights while loading: int8 or int4.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]
