"""Checkpoints of a run: a standard model folder, and beside the model what is needed to go on exactly.

`optimizer/` has the optimiser's state under the parameters' names, `training_state.json` the rest: the step, where the
data is, the settings. A checkpoint's folder appears under its name when all of it is on the disk. Random states are not
stored: a step's random numbers follow from the seed and the step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from quintet.checkpoint import open_checkpoint, save_tensors
from quintet.files import new_folder, read_json, staged
from quintet.hub import Source
from quintet.training.config import AnyConfig
from quintet.training.loop import Progress, Run
from quintet.training.settings import flatten

PREFIX = "checkpoint-"
STATE = "training_state.json"
OPTIMIZER = "optimizer"
DECISIVE = (
    *("optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "scale_parameter", "max_grad_norm", "label_smoothing_factor", "z_loss", "seed", "bf16"),
    *("gradient_accumulation_steps", "dtype", "freeze", "lora_rank", "lora_alpha", "lora_target_modules"),
    *("config_overrides", "metric_for_best_model"),
)
"""Settings that steps follow from. What the data is, the stream of examples checks itself."""


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in an output folder, oldest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if (path / STATE).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def save(run: Run) -> None:
    """Write the checkpoint of this step, then remove those that are neither the best nor among the last.

    Raises OSError if the disk is full or the folder cannot be written; the former checkpoints are left then.
    """
    folder = Path(run.config.run.output_dir)
    target = folder / f"{PREFIX}{run.progress.step}"
    state = {
        "progress": asdict(run.progress),
        "data": run.batches.state_dict(),
        "settings": flatten(run.config),
        "processes": run.world.size,
    }
    if run.world.is_main and not target.exists():
        with new_folder(target) as staging:
            run.model.save_pretrained(staging)
            run.tokenizer.save_pretrained(staging)
            save_tensors(_optimizer_tensors(run), staging / OPTIMIZER)
            (staging / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        _remove_old(folder, run)
    run.world.wait()


def load(run: Run, folder: Path) -> None:
    """Go on from a checkpoint: weights, optimiser, data, progress.

    Raises ValueError if it is of another model, other settings or other data, naming what differs.
    """
    state = read_json(folder / STATE)
    _check_settings(state["settings"], run.config, folder)
    _load_weights(run.model, folder)
    run.batches.load_state_dict(state["data"])
    _load_optimizer(run, folder)
    run.progress = Progress(**state["progress"])


def finish(run: Run) -> None:
    """Put the best checkpoint's model, or the last one's without evaluations, into the output folder itself."""
    if not run.world.is_main:
        return
    folder = Path(run.config.run.output_dir)
    step = run.progress.best_step or run.progress.step
    chosen = folder / f"{PREFIX}{step}"
    with staged(folder) as staging:
        for path in chosen.iterdir():
            if path.is_file() and path.name != STATE:
                shutil.copyfile(path, staging / path.name)


def _remove_old(folder: Path, run: Run) -> None:
    *others, _ = checkpoints_in(folder)
    kept = run.config.run.save_total_limit - 1
    for path in others[: len(others) - kept]:
        if path.name != f"{PREFIX}{run.progress.best_step}":
            (path / STATE).unlink()  # from now on it is no checkpoint, should this be interrupted
            shutil.rmtree(path)


def _check_settings(saved: Mapping[str, Any], config: AnyConfig, folder: Path) -> None:
    now = flatten(config)
    falls = config.optimizer.lr_scheduler_type in ("linear", "cosine")
    for name in (*DECISIVE, "max_steps") if falls else DECISIVE:
        if saved.get(name) != now[name]:
            raise ValueError(
                f"{folder} was made with {name} {saved.get(name)}, now it is {now[name]}: go on with what it was, or "
                f"start a new run from its weights: model_name_or_path: {folder}"
            )


def _load_weights(model: torch.nn.Module, folder: Path) -> None:
    saved = open_checkpoint(Source(folder))
    own = dict(model.named_parameters())
    for name, parameter in own.items():
        shape = saved.header(name).shape if name in saved else None
        if shape != tuple(parameter.shape):
            found = "is not in it" if shape is None else f"has the shape {shape} in it, not {tuple(parameter.shape)}"
            raise ValueError(f"{folder} is a checkpoint of another model: {name} {found}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved.tensor(name))


def _optimizer_tensors(run: Run) -> dict[str, torch.Tensor]:
    """The optimiser's state by the names of parameters and of its parts: "shared.weight/exp_avg"."""
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{part}": torch.as_tensor(value)
        for parameter, state in run.optimizer.state.items()
        for part, value in state.items()
    }


def _load_optimizer(run: Run, folder: Path) -> None:
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    saved = open_checkpoint(Source(folder / OPTIMIZER))
    for key in saved:
        name, part = key.rsplit("/", 1)
        parts.setdefault(name, {})[part] = saved.tensor(key)
    state = run.optimizer.state_dict()
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    numbered = {number: parts[names[id(parameter)]] for number, parameter in enumerate(parameters)}
    run.optimizer.load_state_dict({**state, "state": numbered})
