"""Training beside transformers' Trainer: real tokens a second and peak memory, the same model, data and precision.

The model has T5-small's shape and is drawn anew; the batches are pairs of sentences, padded to their longest, the same
ones in the same order for both, with AdamW (fused). Each trainer runs in a process of its own, whose peak of
resident memory is compared with what it held before it loaded the model. The first steps warm up and are not counted.

    python benchmarks/training.py --data ../shared/data/tatoeba/en-de.train.tsv.gz --vocabulary ../shared/tokenizers/t5
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import describe

from quintet.training.building import build_run
from quintet.training.config import TrainingConfig
from quintet.training.loop import Run, make_step
from quintet.training.parallel import World
from quintet.training.settings import build

WARM_UP = 3
SHAPE = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "decoder_start_token_id": 0}
Ended = tuple[list[float], list[Any], float]  # when each step did, its batches, and the last loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="pairs of sentences, a tab between them")
    parser.add_argument("--vocabulary", required=True, help="the folder of a tokenizer")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"{describe()}, {options.threads} threads, batches of {options.batch_size}\n")
    print("| precision | trainer | real tokens/s | peak MB | last loss |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(options, folder)
        _in_a_process(_prepare, settings)
        for bf16 in (False, True):
            for name in TRAINERS:
                arguments = (name, {**settings, "bf16": bf16}, options.threads)
                tokens, megabytes, loss = _in_a_process(_measure, *arguments)
                precision = "bfloat16 autocast" if bf16 else "float32"
                print(f"| {precision} | {name} | {tokens:.0f} | {megabytes:.0f} | {loss:.4f} |", flush=True)


def _in_a_process(work: Callable[..., Any], *arguments: Any) -> Any:
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_answer, args=(theirs, work, *arguments))
    process.start()
    answer = ours.recv()
    process.join()
    return answer


def _answer(answers: Connection, work: Callable[..., Any], *arguments: Any) -> None:
    answers.send(work(*arguments))


def _settings(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    task = {"name": "pairs", "train_file": options.data, "columns": ["source", "target"]}
    return {
        "model_name_or_path": folder,
        "config_overrides": {"dropout_rate": 0.0},
        "tokenizer_name": options.vocabulary,
        "output_dir": folder,
        "tasks": [{**task, "prefix": "translate English to German: "}],
        "max_source_length": 128,
        "max_target_length": 128,
        "per_device_train_batch_size": options.batch_size,
        "max_steps": options.steps + WARM_UP,
        "optim": "adamw_torch",
        "learning_rate": 1e-4,
        "device": "cpu",
    }


def _prepare(settings: dict[str, Any]) -> None:
    """Draw the weights, tokenise the data: neither is measured."""
    folder = Path(settings["model_name_or_path"])
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", **SHAPE}))
    anew = {**settings, "model_name_or_path": None, "config_name": str(folder)}
    build_run(build(TrainingConfig, anew), World()).model.save_pretrained(folder)


def _measure(name: str, settings: dict[str, Any], threads: int) -> tuple[float, float, float]:
    """Real tokens a second, the megabytes above those before the model, and the last step's loss."""
    torch.set_num_threads(threads)
    before = _peak()
    times, drawn, loss = TRAINERS[name](build(TrainingConfig, settings))
    tokens = sum(len(one["input_ids"]) + len(one["labels"]) for rows in drawn[WARM_UP:] for one in rows)
    return tokens / (times[-1] - times[WARM_UP - 1]), _peak() - before, loss


def _peak() -> float:
    """The most memory this process has held so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _drawn(run: Run) -> list[Any]:
    return list(islice(run.batches, run.config.optimizer.max_steps))


def _quintet(config: TrainingConfig) -> Ended:
    run = build_run(config, World())
    drawn, times, loss = _drawn(run), [], 0.0
    run.model.train()
    for rows in drawn:
        step = make_step(run, [rows])
        loss = step.cross_entropy.item() / step.target_tokens
        times.append(time.perf_counter())
    return times, drawn, loss


def _transformers(config: TrainingConfig) -> Ended:
    run = build_run(config, World())
    drawn, collate, times = _drawn(run), run.collate, list[float]()
    del run  # the other trainer has a model of its own

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            times.append(time.perf_counter())

    class Batches(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            return iter(map(collate, drawn))

    folder = config.run.output_dir
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        max_steps=config.optimizer.max_steps,
        per_device_train_batch_size=1,
        learning_rate=config.optimizer.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        max_grad_norm=config.optimizer.max_grad_norm,
        bf16=config.run.bf16,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        transformers.T5ForConditionalGeneration.from_pretrained(folder, dropout_rate=0.0),
        arguments,
        train_dataset=Batches(),
        data_collator=lambda batches: batches[0],
        callbacks=[Clock],
    )
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return times, drawn, losses[-1]


TRAINERS: dict[str, Callable[[TrainingConfig], Ended]] = {
    "transformers": _transformers,
    "quintet": _quintet,
}


if __name__ == "__main__":
    main()
