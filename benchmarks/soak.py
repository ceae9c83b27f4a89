"""Memory over time: mixed requests from several threads for ten minutes, after which no more may be held than before.

The model in the package, as it is shipped (int4) and in float32, gets requests of 1 to 12 sentences, of 3 to 300
tokens: greedy, 4 beams, sampling, scores, the encoder alone. Resident memory is read once a second. After the first
minute, in which buffers find their size, it has to stay flat: the exit status is 1 if the median of the last minute is
more than `--allowed` megabytes above that of the second.

    python benchmarks/soak.py --plot soak.png

Linux only.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe, memory

import quintet

PREFIXES = ("translate English to German: ", "translate English to French: ")
SENTENCE = "the house is wonderful and my sister has a small garden with old trees near the river"


class Requests:
    """Draws requests and makes them until it is told to stop."""

    def __init__(self, models: list[quintet.T5ForConditionalGeneration], tokenizer: quintet.T5TokenizerFast) -> None:
        self.models, self.tokenizer = models, tokenizer
        self.count = 0
        self.failure: Exception | None = None
        self.over = threading.Event()

    def work(self, seed: int) -> None:
        """What a thread does. A failure ends all."""
        chance = random.Random(seed)
        try:
            while not self.over.is_set():
                self._make_one(chance)
                self.count += 1
        except Exception as failure:
            self.failure = failure
            self.over.set()

    def _make_one(self, chance: random.Random) -> None:
        model = chance.choice(self.models)
        longest = chance.choice((8, 30, 250))
        texts = [
            chance.choice(PREFIXES) + " ".join(chance.choices(SENTENCE.split(), k=chance.randint(1, longest)))
            for _ in range(chance.randint(1, 12))
        ]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True)
        ways: list[Callable[[], object]] = [
            lambda: model.generate(**inputs, max_new_tokens=40),
            lambda: model.generate(**inputs, max_new_tokens=20, num_beams=4),
            lambda: model.generate(**inputs, max_new_tokens=20, do_sample=True, top_k=20),
            lambda: model.score(**inputs, targets=inputs["input_ids"][:, :30]),
            lambda: model.get_encoder()(**inputs),
        ]
        with torch.inference_mode():
            chance.choice(ways)()


def main() -> None:
    """Make requests, print what is held once a minute, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--allowed", type=float, default=16, help="megabytes (default 16)")
    parser.add_argument("--plot", type=Path, help="draw memory over time into this file, as PNG")
    options = parser.parse_args()
    if options.minutes < 3 or options.threads < 1:
        parser.error("--minutes must be at least 3, --threads at least 1")
    print(describe(), flush=True)
    tokenizer = quintet.T5TokenizerFast.from_pretrained("quintet-mini")
    load = quintet.T5ForConditionalGeneration.from_pretrained
    shipped, precise = load("quintet-mini").eval(), load("quintet-mini").dequantize().eval()
    requests = Requests([shipped, precise], tokenizer)
    threads = [threading.Thread(target=requests.work, args=(seed,)) for seed in range(options.threads)]
    for thread in threads:
        thread.start()
    held = _watch(requests, options.minutes)
    requests.over.set()
    for thread in threads:
        thread.join()
    if requests.failure is not None:
        raise requests.failure
    if options.plot:
        _plot(held, options.plot)
    growth = statistics.median(held[-60:]) - statistics.median(held[60:120])
    print(f"{requests.count} requests; {growth:+.1f} MB from the second minute to the last")
    sys.exit(growth > options.allowed)


def _watch(requests: Requests, minutes: int) -> list[float]:
    """Megabytes held, once a second, as long as nothing fails."""
    held = []
    for second in range(minutes * 60):
        if requests.over.wait(1):
            break
        held.append(memory("VmRSS") / 2**20)
        if second % 60 == 59:
            median = statistics.median(held[-60:])
            print(f"minute {second // 60 + 1}: {median:.0f} MB, {requests.count} requests", flush=True)
    return held


def _plot(held: list[float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([second / 60 for second in range(len(held))], held)
    axes.set(xlabel="minutes", ylabel="resident MB", ylim=(0, None))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
