"""What the loss costs in time and memory: projection and cross-entropy in chunks, and both at once as torch has them.

Each measurement runs in a process of its own, whose peak of resident memory is compared with what it held before.
Processor time, not time on the clock: neighbours on the machine change it little. That holds for one thread; several
count the time they wait for each other.

    python benchmarks/loss.py --tokens 1024 4096
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import describe

from quintet.training.loss import projected_cross_entropy

VOCABULARY, WIDTH = 32128, 512  # T5-small's
Computation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"{describe()}\n\n| tokens | precision | loss | seconds | peak MB |\n|---|---|---|---|---|")
    processes = multiprocessing.get_context("spawn")
    for tokens in options.tokens:
        for autocast in (False, True):
            for name in LOSSES:
                ours, theirs = processes.Pipe()
                arguments = (name, tokens, autocast, options.threads, theirs)
                process = processes.Process(target=_measure, args=arguments)
                process.start()
                seconds, megabytes = ours.recv()
                process.join()
                precision = "bfloat16 autocast" if autocast else "float32"
                print(f"| {tokens} | {precision} | {name} | {seconds:.2f} | {megabytes:.0f} |", flush=True)


def _plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight), labels)


def _chunked(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return projected_cross_entropy(hidden, weight, labels).value


LOSSES: dict[str, Computation] = {"all at once": _plain, "in chunks": _chunked}


def _measure(
    name: str, tokens: int, autocast: bool, threads: int, answers: multiprocessing.connection.Connection
) -> None:
    """Sends the seconds of the faster of two rounds, and the megabytes above those of inputs and gradients."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH).mul_(0.05).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (tokens,))
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    before = _peak()
    seconds = []
    for _ in range(2):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = LOSSES[name](hidden, weight, labels)
        loss.backward()
        seconds.append(time.process_time() - start)
    answers.send((min(seconds), _peak() - before))


def _peak() -> float:
    """The most memory this process has held so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
