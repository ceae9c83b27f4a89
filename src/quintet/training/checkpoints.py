"""Checkpoints of a run: a standard model folder, and beside the model what is needed to go on exactly.

`optimizer/` has the optimiser's state under the parameters' names, `training_state.json` the rest: the step, where the
data is, the settings. A model with adapters is saved as one without, and its adapters beside it in `adapters/`, as peft
has them. Of several processes each writes its part of the tensors, all to one disk. A checkpoint's folder appears under
its name when all of it is on the disk. Random states are not stored: a step's random numbers follow from the seed and
the step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from quintet.checkpoint import join_checkpoints, open_checkpoint, save_tensors
from quintet.files import new_folder, read_json, staged
from quintet.hub import Source
from quintet.training.adapters import load_adapters, merged_weights
from quintet.training.config import AnyConfig
from quintet.training.loop import Progress, Run
from quintet.training.parallel import fill, own_share
from quintet.training.settings import flatten

PREFIX = "checkpoint-"
STATE = "training_state.json"
PARTS = ".parts-"  # what processes have written of a checkpoint that is not one yet
MODEL, OPTIMIZER = "model", "optimizer"
ADAPTERS = "adapters"
DECISIVE = (
    *("optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "scale_parameter", "max_grad_norm", "label_smoothing_factor", "z_loss", "seed", "bf16"),
    *("gradient_accumulation_steps", "dtype", "freeze", "lora_rank", "lora_alpha", "lora_target_modules"),
    *("config_overrides", "quantization_config", "metric_for_best_model"),
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
        "held_out": _held_out(run),
        "settings": flatten(run.config),
        "processes": run.world.size,
    }
    weights = run.model.unique_tensors(run.model.state_dict() if run.adapters is None else merged_weights(run.model))
    tensors = {MODEL: weights, OPTIMIZER: _optimizer_state(run)}
    shares = {name: own_share(of_all, run.world) for name, of_all in tensors.items()}
    parts = folder / f"{PARTS}{run.progress.step}"
    try:
        with run.world.all_or_none():
            for name, share in shares.items():
                if share:  # there may be more processes than tensors
                    save_tensors(share, parts / name / str(run.world.rank))
        with run.world.all_or_none():
            if run.world.is_main:
                _publish(run, parts, tensors, target, state)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    if run.world.is_main:
        _remove_old(folder, run)


def _publish(
    run: Run, parts: Path, tensors: Mapping[str, Collection[str]], target: Path, state: Mapping[str, Any]
) -> None:
    """Make a checkpoint of what the processes have written, which should be these tensors."""
    with new_folder(target) as staging:
        for name, folder in ((MODEL, staging), (OPTIMIZER, staging / OPTIMIZER)):
            join_checkpoints([parts / name / str(rank) for rank in range(run.world.size)], folder, tensors[name])
        run.model.save_configuration(staging)
        run.tokenizer.save_pretrained(staging)
        if run.adapters is not None:
            run.adapters.save_pretrained(staging / ADAPTERS)
        (staging / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")


def load(run: Run, folder: Path) -> None:
    """Go on from a checkpoint: weights, optimiser, data, progress.

    Raises ValueError if it is of another model, other settings or other data, naming what differs.
    """
    state = read_json(folder / STATE)
    _check_settings(state["settings"], run.config, folder)
    _check_held_out(state, run, folder)
    if run.adapters is None:
        _load_weights(run.model, folder)
    else:
        _load_adapters(run, folder)
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


def remove_unfinished(folder: Path) -> None:
    """Remove what a run that was killed had written of a checkpoint."""
    for path in folder.glob(f"{PARTS}*"):
        shutil.rmtree(path)


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


def _held_out(run: Run) -> dict[str, str]:
    """What the run is measured on: fingerprints by name."""
    return {one.name: one.examples.fingerprint for one in run.evaluator.sets} if run.evaluator is not None else {}


def _check_held_out(state: Mapping[str, Any], run: Run, folder: Path) -> None:
    now = _held_out(run)
    if now and state["progress"]["best"] is not None and state["held_out"] != now:
        raise ValueError(
            f"{folder} was measured on other held-out data: its best result does not compare. Go on with what it was, "
            f"or start a new run from its weights: model_name_or_path: {folder}"
        )


def _load_weights(model: torch.nn.Module, folder: Path) -> None:
    saved = open_checkpoint(Source(folder))
    own = dict(model.named_parameters())
    for name, parameter in own.items():
        shape = saved.header(name).shape if name in saved else None
        if shape != tuple(parameter.shape):
            found = "is not in it" if shape is None else f"has the shape {shape} in it, not {tuple(parameter.shape)}"
            raise ValueError(f"{folder} is a checkpoint of another model: {name} {found}")
    for name, parameter in own.items():
        fill(parameter, saved.tensor(name))


def _load_adapters(run: Run, folder: Path) -> None:
    load_adapters(run.adapters, folder / ADAPTERS)
    saved = open_checkpoint(Source(folder))
    for name, tensor in merged_weights(run.model).items():
        if name in saved and not torch.equal(tensor.cpu(), saved.tensor(name)):
            raise ValueError(f"{folder} has adapters for another model than {run.config.model.model_name_or_path}")


def _optimizer_state(run: Run) -> dict[str, torch.Tensor]:
    """The optimiser's state by the names of parameters and of its parts: "shared.weight/exp_avg"."""
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{part}": value
        for parameter, state in run.optimizer.state.items()
        for part, value in state.items()
    }


def _load_optimizer(run: Run, folder: Path) -> None:
    saved = open_checkpoint(Source(folder / OPTIMIZER))
    _make_states(run.optimizer)
    for name, tensor in _optimizer_state(run).items():
        fill(tensor, saved.tensor(name))


def _make_states(optimizer: torch.optim.Optimizer) -> None:
    """A step that moves nothing: the optimiser then has its states, of the right shapes and in the right shards."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
