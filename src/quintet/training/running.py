"""A whole run: from settings to the trained model in its folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from quintet.training import checkpoints
from quintet.training.building import build_run
from quintet.training.config import AnyConfig
from quintet.training.logs import Log
from quintet.training.loop import Observer, Run, train
from quintet.training.parallel import joined
from quintet.training.report import Report


def run_training(config: AnyConfig, resume: bool = False, *watchers: Callable[[Run], Observer]) -> Run:
    """Train as the settings say; in the end output_dir holds the best model (without evaluations, the last).

    `watchers` make further observers of it, such as `Display`; log and report there always are.

    `resume` goes on from the last checkpoint in output_dir, exactly: on a CPU the result is, bit for bit, that of a run
    that was not interrupted. Raises ValueError for wrong settings or data, for an output_dir that holds a run already
    (without `resume`) or none (with it), and for a checkpoint of another model, other settings or other data;
    NotFiniteError when the gradient is no number any more; OSError for files that cannot be read or written.
    """
    folder = Path(config.run.output_dir)
    found = checkpoints.checkpoints_in(folder)
    if found and not resume:
        raise ValueError(f"{folder} holds a run already: go on with --resume, or choose another output_dir")
    if resume and not found:
        raise ValueError(f"there is no checkpoint in {folder} to resume from")
    with joined(config.run.device) as world:
        if world.is_main:
            checkpoints.remove_unfinished(folder)
        run = build_run(config, world)
        if resume:
            checkpoints.load(run, found[-1])
        with ExitStack() as stack:
            observers: list[Observer] = []
            makers: list[Callable[[Run], Observer]] = [Log, Report, *watchers]
            for make in makers:
                observers.append(make(run))
                stack.callback(observers[-1].close)
            train(run, observers, checkpoints.save)
        checkpoints.finish(run)
    return run
