"""Training beside transformers' Trainer: real tokens a second and peak memory, the same model, data and precision.

The model has T5-small's shape and is drawn anew. All see the same pairs of sentences, so many a step, with AdamW
(fused) or Adafactor, T5's own optimiser, and gradients clipped at 1. Trainer has its DataCollatorForSeq2Seq, and
batches of two kinds: shuffled, as it makes them unless told otherwise, and by length, exactly those that quintet
makes. Padding does not count as tokens.

Each has a process of its own, whose peak of resident memory is compared with what it held before it loaded the model.
They make their steps by turns, one at a time, so that what else a shared machine is doing is the same for all. The
first steps warm up and are not counted. Means of the rounds are shown.

    python benchmarks/training.py --data ../shared/data/tatoeba/en-de.train.tsv.gz --vocabulary ../shared/tokenizers/t5
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import torch
import torch._dynamo  # which torch's optimisers import when they are made: not to be counted as anybody's memory
import transformers
import transformers.trainer
from machine import describe

from quintet.training.building import build_run
from quintet.training.config import TrainingConfig
from quintet.training.loop import count_tokens, make_step
from quintet.training.parallel import World
from quintet.training.settings import build

WARM_UP = 3
COUNTED = slice(WARM_UP, -1)  # of the steps; the last turn is also the end of training
DRAWN = "drawn.pickle"
SHAPE = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "decoder_start_token_id": 0}
OPTIMIZERS = {"adamw_torch": ("adamw_torch_fused", 1e-4), "adafactor": ("adafactor", 1e-3)}
"""By quintet's name: transformers' name, which takes its unfused AdamW unless told otherwise, and a learning rate."""
Ended = tuple[list[int], float]  # the real tokens of each step, and the last loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="pairs of sentences, a tab between them")
    parser.add_argument("--vocabulary", required=True, help="the folder of a tokenizer")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--optim", choices=list(OPTIMIZERS), default="adamw_torch")
    parser.add_argument("--float32", action="store_true", help="instead of bfloat16 autocast")
    options = parser.parse_args()
    precision = "float32" if options.float32 else "bfloat16 autocast"
    how = f"{precision}, {options.optim}, dropout {options.dropout}, batches of {options.batch_size}"
    print(f"{describe()}, transformers {transformers.__version__}; {how}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(options, folder)
        _process(_prepare, settings).recv()
        rounds = [_round(settings, options.threads) for _ in range(options.rounds)]
    print("| trainer | real tokens/s | of the rounds | peak MB | last loss |\n|---|---|---|---|---|")
    for name in TRAINERS:
        speeds, peaks, losses = zip(*(found[name] for found in rounds), strict=True)
        each = ", ".join(f"{speed:.0f}" for speed in speeds)
        print(f"| {name} | {statistics.mean(speeds):.0f} | {each} | {statistics.mean(peaks):.0f} | {losses[0]:.4f} |")


def _round(settings: dict[str, Any], threads: int) -> dict[str, tuple[float, float, float]]:
    """What each trainer was measured at, also shown: real tokens a second, the peak in MB, the last step's loss."""
    turns = {name: _process(_train, name, settings, threads) for name in TRAINERS}
    for one in turns.values():
        one.recv()  # ready for its first step
    seconds: dict[str, list[float]] = {name: [] for name in TRAINERS}
    for step in range(settings["max_steps"]):
        first = step % len(TRAINERS)  # nobody always comes after the same one
        for name in [*TRAINERS, *TRAINERS][first : first + len(TRAINERS)]:
            begin = time.perf_counter()
            turns[name].send("make a step")
            turns[name].recv()
            seconds[name].append(time.perf_counter() - begin)
    found = {}
    for name, one in turns.items():
        one.send("no more")
        tokens, loss, megabytes = one.recv()
        found[name] = sum(tokens[COUNTED]) / sum(seconds[name][COUNTED]), megabytes, loss
        print(f"{name}: {found[name][0]:.0f} tokens/s, {megabytes:.0f} MB", flush=True)
    return found


def _process(work: Callable[..., Any], *arguments: Any) -> Connection:
    """What `work`, which is given a connection and the arguments, and runs in a process of its own, is talked to by."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    processes.Process(target=work, args=(theirs, *arguments), daemon=True).start()
    theirs.close()  # else nobody notices that the process has failed
    return ours


def _settings(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    task = {"name": "pairs", "train_file": options.data, "columns": ["source", "target"]}
    return {
        "model_name_or_path": folder,
        "config_overrides": {"dropout_rate": options.dropout},
        "tokenizer_name": options.vocabulary,
        "output_dir": folder,
        "tasks": [{**task, "prefix": "translate English to German: "}],
        "max_source_length": 128,
        "max_target_length": 128,
        "per_device_train_batch_size": options.batch_size,
        "max_steps": WARM_UP + options.steps + 1,
        "optim": options.optim,
        "learning_rate": OPTIMIZERS[options.optim][1],
        "scale_parameter": False,  # as Trainer has it
        "bf16": not options.float32,
        "device": "cpu",
    }


def _prepare(parent: Connection, settings: dict[str, Any]) -> None:
    """Draw the weights, tokenise the data, put together batches: nothing of it is measured.

    Done here, as a run changes how its process allocates memory and compiles products: not for others.
    """
    folder = Path(settings["model_name_or_path"])
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", **SHAPE}))
    anew = {**settings, "model_name_or_path": None, "config_name": str(folder)}
    run = build_run(build(TrainingConfig, anew), World())
    run.model.save_pretrained(folder)
    drawn = list(islice(run.batches, run.config.optimizer.max_steps))
    (folder / DRAWN).write_bytes(pickle.dumps(drawn))
    parent.send("done")


def _train(parent: Connection, name: str, settings: dict[str, Any], threads: int) -> None:
    """Make steps when told to; then say the real tokens of each, the last loss, and the megabytes it has taken."""
    torch.set_num_threads(threads)
    before = _peak()

    def wait_for_turn() -> None:
        parent.send("a step was made")
        parent.recv()

    tokens, loss = TRAINERS[name](build(TrainingConfig, settings), wait_for_turn)
    wait_for_turn()
    parent.send((tokens, loss, _peak() - before))


def _peak() -> float:
    """The most memory this process has held so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _drawn(config: TrainingConfig) -> list[Any]:
    """The batches of all steps."""
    return cast(list[Any], pickle.loads((Path(config.run.output_dir) / DRAWN).read_bytes()))


def _quintet(config: TrainingConfig, wait_for_turn: Callable[[], None]) -> Ended:
    run = build_run(config, World())
    drawn, loss = _drawn(config), 0.0
    run.model.train()
    for rows in drawn:
        wait_for_turn()
        step = make_step(run, [rows])
        loss = step.cross_entropy.item() / step.target_tokens
    return [sum(count_tokens([rows])) for rows in drawn], loss


class Shuffled(torch.utils.data.Dataset):
    """The examples as Trainer takes them unless told otherwise: it draws their order itself."""

    def __init__(self, drawn: Sequence[Any]) -> None:
        self.examples = list(map(_as_lists, chain(*drawn)))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        return self.examples[place]


class ByLength(torch.utils.data.IterableDataset):
    """The examples in the order of quintet's batches, which are all of one size: Trainer cuts the same ones."""

    def __init__(self, drawn: Sequence[Any]) -> None:
        self.examples = list(map(_as_lists, chain(*drawn)))

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return iter(self.examples)


def _as_lists(example: Any) -> dict[str, list[int]]:
    return {name: example[name].tolist() for name in ("input_ids", "labels")}


def _transformers(
    config: TrainingConfig, wait_for_turn: Callable[[], None], order: Callable[[Sequence[Any]], Any]
) -> Ended:
    drawn, tokens = _drawn(config), list[int]()

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, *arguments: Any, **keywords: Any) -> None:
            wait_for_turn()

    folder = config.run.output_dir
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, **config.model.config_overrides)
    tokenizer = transformers.AutoTokenizer.from_pretrained(config.model.tokenizer_name)
    padded = transformers.DataCollatorForSeq2Seq(tokenizer, model)

    def collate(examples: list[dict[str, list[int]]]) -> Any:
        tokens.append(sum(len(one["input_ids"]) + len(one["labels"]) for one in examples))
        return padded(examples)

    arguments = transformers.TrainingArguments(
        output_dir=folder,
        max_steps=config.optimizer.max_steps,
        per_device_train_batch_size=config.batch.per_device_train_batch_size,
        learning_rate=config.optimizer.learning_rate,
        lr_scheduler_type="constant",
        optim=OPTIMIZERS[config.optimizer.optim][0],
        max_grad_norm=config.optimizer.max_grad_norm,
        bf16=config.run.bf16,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model, arguments, train_dataset=order(drawn), data_collator=collate, callbacks=[Turns]
    )
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return tokens, losses[-1]


TRAINERS: dict[str, Callable[[TrainingConfig, Callable[[], None]], Ended]] = {
    "transformers, shuffled": partial(_transformers, order=Shuffled),
    "transformers, by length": partial(_transformers, order=ByLength),
    "quintet": _quintet,
}


if __name__ == "__main__":
    main()
