"""Decoding and encoding on a CPU: quintet beside transformers, CTranslate2 and ONNX Runtime, in one run.

All run the same random weights (cpu_files.py says how they are made) on the same processors. Each library and precision
has a process of its own; in each round every one of them has a turn, and the others stand still meanwhile. Figures are
medians. What the machine can do at best, bytes read and products, is measured in each round.

    python benchmarks/cpu.py --output figures.json --plot figures.png
    python benchmarks/cpu.py --models base --quick --folder models            # greedy search, short sources
    python benchmarks/cpu.py --peers quintet-int8,ctranslate2-int8 --kinds greedy,beams --rounds 3

pip install -e ".[bench]" brings the peers. Of these, CTranslate2 and ONNX Runtime are left out, with a message, where
they are not installed; transformers makes the weights. Converting T5-base to ONNX takes minutes: --folder keeps what
was converted for the next run. All contestants' copies of T5-base take about 10 GB together. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cpu_contestants
import cpu_files
import cpu_report
import cpu_shares
import torch
from cpu_cases import CONTESTANTS, SHAPES, Case, Contestant, cases, quick_cases
from cpu_limits import limits
from machine import describe
from rich.console import Console

from quintet.engine.library import load_library, usable_processors

KINDS = ("first", "greedy", "beams", "encoder", "memory")
WARM_UP = 4
"""New tokens of the answer before the first round."""


class Worker:
    """A process that works when it is asked and is stopped otherwise, so that its threads take nothing from others."""

    def __init__(self) -> None:
        self._executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self._process = self._executor.submit(os.getpid).result()
        self._send(signal.SIGSTOP)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns, or raises, there."""
        self._send(signal.SIGCONT)
        try:
            return self._executor.submit(function, *arguments).result()
        finally:
            self._send(signal.SIGSTOP)

    def close(self) -> None:
        self._send(signal.SIGCONT)
        self._executor.shutdown()

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # that it died is said where its result is asked for
            os.kill(self._process, number)


@contextmanager
def working(count: int) -> Iterator[list[Worker]]:
    """Workers that end with the block, whatever happens in it."""
    workers: list[Worker] = []
    try:
        workers.extend(Worker() for _ in range(count))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a process that does nothing else."""
    with working(1) as workers:
        return workers[0](function, *arguments)


class Benchmark:
    """Measures cases of models, and holds the figures as they will be written."""

    def __init__(
        self, contestants: list[Contestant], root: Path, options: argparse.Namespace, console: Console
    ) -> None:
        self.contestants, self.root, self.options, self.console = contestants, root, options, console
        self.figures: dict[str, Any] = {
            "machine": describe(),
            "versions": {name: importlib.metadata.version(name) for name in {c.library for c in contestants}},
            "threads": options.threads,
            "instruction_set": None if (library := load_library()) is None else library.instruction_set,
            "limits": {},
            "rows": [],
            "memory": [],
            "step_bytes": {},
            "same_tokens": {},
            "different_tokens": {},
        }
        self._limits: list[dict[str, float]] = []

    def prepare(self, model: str) -> None:
        """Make the files that are not there yet."""
        for library in ("checkpoint", *dict.fromkeys(contestant.library for contestant in self.contestants)):
            self.console.print(f"T5-{model}: files of {library}", style="dim")
            alone(cpu_files.make, self.root, model, library)

    def measure(self, model: str, chosen: Sequence[Case]) -> None:
        """Run the cases in rounds, every contestant in turn."""
        with working(len(self.contestants) + 1) as (measuring, *workers):
            players = dict(zip(self.contestants, workers, strict=True))
            for contestant, worker in players.items():
                worker(cpu_contestants.start, self.root / model, contestant, self.options.threads)
            sizes = {c.name: w(cpu_contestants.step_bytes) for c, w in players.items() if c.library == "quintet"}
            self.figures["step_bytes"][model] = sizes
            for case in chosen:
                self.console.print(f"T5-{model}: {case.kind} {case.label}", style="dim")
                self._measure_case(model, case, players, measuring)
                self.save()

    def _measure_case(self, model: str, case: Case, players: dict[Contestant, Worker], measuring: Worker) -> None:
        seconds: dict[str, list[float]] = {contestant.name: [] for contestant in players}
        answers = {}
        order = list(players)
        for contestant in order:
            players[contestant](cpu_contestants.run, replace(case, new=min(case.new, WARM_UP)))
        meanwhile = []
        for _ in range(self.options.rounds):
            meanwhile.append(measuring(limits, self.options.threads))
            random.shuffle(order)  # nobody always follows the same one
            for contestant in order:
                taken, answers[contestant.name] = players[contestant](cpu_contestants.run, case)
                seconds[contestant.name].append(taken)
        self._limits += meanwhile
        row = {"model": model, **asdict(case), "case": case.label, "seconds": seconds, "limits": medians(meanwhile)}
        self.figures["rows"].append(row | cpu_report.summary(row))
        if case.kind == "greedy":
            self._compare(model, {name: answers[name] for name in seconds})

    def _compare(self, model: str, answers: dict[str, list[list[int]]]) -> None:
        """How many tokens are at their places those of the first contestant; of the first case."""
        first = torch.tensor(next(iter(answers.values())))
        same = {name: float((torch.tensor(rows) == first).float().mean()) for name, rows in answers.items()}
        self.figures["same_tokens"].setdefault(model, same)
        self.figures["different_tokens"].setdefault(model, statistics.mean(len(set(row)) for row in first.tolist()))

    def measure_memory(self, model: str, case: Case) -> None:
        """Each contestant in a process of its own that does nothing else."""
        self.console.print(f"T5-{model}: memory", style="dim")
        for contestant in self.contestants:
            arguments = (self.root / model, contestant, self.options.threads, case)
            peak, after = alone(cpu_contestants.peak_memory, *arguments)
            row = {"model": model, "case": case.label, "name": contestant.name, "peak": peak, "after": after}
            self.figures["memory"].append(row)

    def save(self) -> None:
        """Write what has been measured so far; a run that is cut short keeps it."""
        self.figures["limits"] = medians(self._limits)
        self.figures["shares"] = cpu_shares.shares(self.figures)
        if self.options.output:
            self.options.output.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")


def medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure; of nothing, nothing."""
    return {key: statistics.median(figures[key] for figures in found) for key in (found[0] if found else ())}


def main() -> None:
    """Measure, print tables, write JSON and a plot."""
    parser = _parser()
    options = parser.parse_args()
    models, kinds = (
        _names(parser, given, known) for given, known in ((options.models, SHAPES), (options.kinds, KINDS))
    )
    libraries = [contestant.library for contestant in CONTESTANTS]
    names = [contestant.name for contestant in CONTESTANTS]
    wanted = _names(parser, options.peers, [*libraries, *names])
    if options.threads < 1 or options.rounds < 1 or options.new < 2:
        parser.error("--threads and --rounds must be at least 1, --new at least 2")
    console = Console(width=140)
    contestants = [c for c in CONTESTANTS if {c.library, c.name} & set(wanted) and _is_installed(c, console)]
    if not contestants:
        parser.error(f"none of {options.peers} is installed")
    _use_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        benchmark = Benchmark(contestants, options.folder or Path(temporary), options, console)
        console.print(benchmark.figures["machine"], benchmark.figures["versions"])
        console.print(
            "quintet's instruction set:", benchmark.figures["instruction_set"] or "none, its engine was not built"
        )
        chosen = [case for case in cases(options.new) if case.kind in kinds]
        if options.quick:
            chosen, kinds = quick_cases(options.new), ["first", "greedy"]
        for model in models:
            benchmark.prepare(model)
            if chosen:
                benchmark.measure(model, chosen)
            if "memory" in kinds:
                benchmark.measure_memory(model, Case("greedy", 1, 64, options.new))
    benchmark.save()
    cpu_report.print_report(console, benchmark.figures)
    if options.plot:
        cpu_report.plot(benchmark.figures, options.plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="small,base", help=f"of {', '.join(SHAPES)} (default small,base)")
    every = ",".join(dict.fromkeys(contestant.library for contestant in CONTESTANTS))
    parser.add_argument("--peers", default=every, help="libraries, or one precision of them such as quintet-int8")
    parser.add_argument("--kinds", default=",".join(KINDS), help="what to measure (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="only greedy search from short sources, in place of --kinds"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind (default 5)")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer (default 64)")
    parser.add_argument("--threads", type=int, default=usable_processors(), help="default: as many as there are")
    parser.add_argument("--folder", type=Path, help="where converted models are kept (default: a temporary folder)")
    parser.add_argument("--output", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--plot", type=Path, help="draw the figures into this file, as PNG")
    return parser


def _names(parser: argparse.ArgumentParser, given: str, known: Sequence[str]) -> list[str]:
    names = given.split(",")
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(dict.fromkeys(known))}")
    return names


def _is_installed(contestant: Contestant, console: Console) -> bool:
    needed = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript")}.get(contestant.library, (contestant.library,))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        console.print(f"{contestant.name} is left out: {', '.join(missing)} not installed")
    return not missing


def _use_threads(threads: int) -> None:
    """This process, and those it starts, compute on that many processors."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
