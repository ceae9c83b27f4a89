"""What the machine can do at best: bytes read and operations done per second, the measure of benchmarks/cpu.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from quintet.engine import load_library
from quintet.engine.library import Matrix
from quintet.engine.plan import TYPES

BYTES = 2**29
SIDE, SMALL_SIDE = 2048, 256
REPEATS = 3


def limits(threads: int) -> dict[str, float]:
    """Bytes per second ("read") and operations per second of each precision; of several ways, the fastest."""
    torch.set_num_threads(threads)
    found = {"read": BYTES / min(map(_seconds, _readers()))}
    for precision in ("float32", "bfloat16", "int8"):
        found[precision] = 2 * SIDE**3 / min(map(_seconds, _fast_products(precision)))
    return found


def _seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def _readers() -> Iterator[Callable[[], object]]:
    numbers = torch.ones(BYTES // 4)
    yield numbers.sum
    matrix, vector = numbers.view(-1, 4096), torch.ones(4096)
    yield lambda: matrix @ vector
    yield from _by_engine(numbers.view(torch.bfloat16).view(-1, 2048), vector[None, :2048])


def _fast_products(precision: str) -> Iterator[Callable[[], object]]:
    """Without ways that take minutes: torch's are 100 times slower where the processor does not know the type."""
    small = [_seconds(run) for run in _products(precision, SMALL_SIDE)]
    for seconds, run in zip(small, _products(precision, SIDE), strict=True):
        if seconds < 10 * min(small):
            yield run


def _products(precision: str, side: int) -> Iterator[Callable[[], object]]:
    """side x side times side x side, by torch and by quintet's engine."""
    dtype = getattr(torch, precision)
    left, right = (torch.randint(-9, 9, (side, side)).to(dtype) for _ in range(2))
    if precision == "int8":
        yield lambda: torch._int_mm(left, right)
    else:
        yield lambda: left @ right
    yield from _by_engine(right, left.float())


def _by_engine(weights: torch.Tensor, numbers: torch.Tensor) -> Iterator[Callable[[], object]]:
    """Weights (outputs, inputs) times numbers (tokens, inputs), if the engine is there."""
    library = load_library()
    if library is None:
        return
    scale, result = torch.ones(len(weights)), torch.empty(len(numbers), len(weights))
    scale_pointer = None if weights.is_floating_point() else scale.data_ptr()
    matrix = Matrix(weights.data_ptr(), scale_pointer, *weights.shape, TYPES[weights.dtype], 0)
    is_many = len(numbers) > 1
    yield lambda: library.multiply(matrix, numbers.data_ptr(), len(numbers), is_many, result.data_ptr())
