"""`quintet train` and `quintet pretrain`: a run as a file of settings and flags say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from quintet.cli import options
from quintet.cli.failures import in_one_line
from quintet.cli.settings import merged, with_flags
from quintet.training.config import PretrainingConfig, TrainingConfig

Config = Annotated[Path | None, typer.Argument(metavar="FILE", help="Settings in YAML; flags win over them.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in output_dir, exactly.")]
RELIEF = "lower --per-device-train-batch-size and raise --gradient-accumulation-steps, or --gradient-checkpointing"


@with_flags(TrainingConfig)
def train(
    config: Config = None, *, resume: Resume = False, debug: options.Debug = False, flags: dict[str, Any]
) -> None:
    """Fine-tune a model on text-to-text tasks, or train one from scratch.

    Settings have the same names in the file and as flags. Without others, they are T5's: Adafactor, constant 1e-3.

    Examples:

      quintet train config.yaml --learning-rate 1e-4 --optim adamw_torch

      quintet train config.yaml --resume

      torchrun --nproc-per-node 2 -m quintet train config.yaml
    """
    _run(TrainingConfig, config, flags, resume, debug)


@with_flags(PretrainingConfig)
def pretrain(
    config: Config = None, *, resume: Resume = False, debug: options.Debug = False, flags: dict[str, Any]
) -> None:
    """Train a model on running text: span corruption, prefix language modelling, or UL2's mixture.

    Without other settings they are T5's: Adafactor, 1e-2 for warmup_steps, then the inverse square root of the step.

    Examples:

      quintet pretrain --train-file text.txt --config-name t5-small/config.json --tokenizer-name t5-small
      --per-device-train-batch-size 32 --warmup-steps 1000 --max-steps 10000 --output-dir run
    """
    _run(PretrainingConfig, config, flags, resume, debug)


def _run(cls: type, path: Path | None, flags: dict[str, Any], resume: bool, debug: bool) -> None:
    with in_one_line(debug, RELIEF):
        from quintet.training.settings import build, read_yaml

        values = merged(cls, {} if path is None else read_yaml(path), flags)
        config: Any = build(cls, values)
        from quintet.training.display import Display
        from quintet.training.running import run_training

        run = run_training(config, resume, Display)
        if run.world.is_main:
            typer.echo(config.run.output_dir)
