"""Products of training in bfloat16: the engine's beside PyTorch's, of T5-small's shapes, by turns.

Each is computed of factors that were not just used, as in training: `COPIES` of them in turn. The engine reads weights
in float32 and writes their gradients in float32; PyTorch is given weights that are cast already, and its gradients are
left in bfloat16. Medians of the rounds.

    python benchmarks/products.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from machine import describe

from quintet.engine import gemm_into, load_library

COPIES = 24
SHAPES = {"attention": (512, 512), "wi": (512, 2048), "wo": (2048, 512)}
"""By layer: its inputs and outputs."""
Way = Callable[[int], object]  # computes with the factors of this number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="512,640,1088,2048")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = load_library()
    if library is None:
        parser.error("the native engine was not built")
    print(f"{describe()}; instruction set {library.instruction_set}, {options.threads} threads", flush=True)
    print("| tokens | layer | product | PyTorch, ms | engine, ms | times as fast |\n|---|---|---|---|---|---|")
    for tokens in map(int, options.tokens.split(",")):
        for layer, (inputs, outputs) in SHAPES.items():
            for name, torchs, ours in _products(tokens, inputs, outputs):
                theirs, own = _medians(torchs, ours, options.rounds)
                print(f"| {tokens} | {layer} | {name} | {theirs:.2f} | {own:.2f} | {theirs / own:.2f} |", flush=True)


def _products(tokens: int, inputs: int, outputs: int) -> Iterator[tuple[str, Way, Way]]:
    """A layer's three products: PyTorch's way and the engine's."""
    weights = [torch.randn(outputs, inputs) for _ in range(COPIES)]
    cast = [weight.bfloat16() for weight in weights]
    states = [torch.randn(tokens, inputs).bfloat16() for _ in range(COPIES)]
    gradients = [torch.randn(tokens, outputs).bfloat16() for _ in range(COPIES)]
    forward, of_states = states[0].new_empty(tokens, outputs), states[0].new_empty(tokens, inputs)
    of_weight = torch.empty(outputs, inputs)
    yield (
        "forward",
        lambda n: torch.mm(states[n], cast[n].t()),
        lambda n: gemm_into(forward, states[n], weights[n].t()),
    )
    yield (
        "of states",
        lambda n: torch.mm(gradients[n], cast[n]),
        lambda n: gemm_into(of_states, gradients[n], weights[n]),
    )
    yield (
        "of weights",
        lambda n: torch.mm(gradients[n].t(), states[n]),
        lambda n: gemm_into(of_weight, gradients[n].t(), states[n]),
    )


def _medians(first: Way, second: Way, rounds: int) -> tuple[float, float]:
    """Milliseconds of both ways, which take turns: one goes through all factors, then the other."""
    found: tuple[list[float], list[float]] = [], []
    for turn in range(rounds + 1):
        for way, times in zip((first, second), found, strict=True):
            for number in range(COPIES):
                begin = time.perf_counter()
                way(number)
                if turn > 0:  # the first compiles
                    times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(found[0]), statistics.median(found[1])


if __name__ == "__main__":
    main()
