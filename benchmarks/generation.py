"""Decoding by quintet and transformers side by side, float32, T5-base's shape: speed, and what beams cost in memory.

Both run in one process on the same random weights, taking turns; memory is measured in processes of its own. A ratio
above 1 means that quintet is that many times faster (or smaller). Figures are medians.

    python benchmarks/generation.py
    python benchmarks/generation.py --shape small --rounds 3 --json figures.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from compare import SHAPES, pair, take_turns
from machine import describe

import quintet

TATOEBA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tatoeba"
CASES = [  # what, sources, options
    ("beam 4", 1, {"num_beams": 4}),
    ("greedy", 32, {}),
    ("greedy, rows end as translations do", 32, {}),
    ("greedy", 1, {}),
    ("beam 4, rows end as translations do", 8, {"num_beams": 4}),
    ("sampling, top_k 50, top_p 0.9", 8, {"do_sample": True, "top_p": 0.9}),
]
SOURCE, NEW = 64, 64
EOS = 1
MEMORY = """
import sys, torch, importlib
library, shape, beams = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
library = importlib.import_module(library)
torch.manual_seed(0)
model = library.T5ForConditionalGeneration(library.T5Config(**shape, decoder_start_token_id=0)).eval()
ids = torch.randint(2, 32000, (1, 512))
options = {"attention_mask": torch.ones_like(ids), "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 32}
model.generate(ids[:, :8], attention_mask=torch.ones(1, 8, dtype=torch.long), max_new_tokens=2, num_beams=1)
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
def resident(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
before = resident("VmRSS")
model.generate(ids, num_beams=beams, **options)
print(resident("VmHWM") - before)
"""


class EndsAt:
    """Makes each source end at a length of its own, whatever the model says; under beams, all of its rows."""

    def __init__(self, lengths: torch.Tensor, beams: int) -> None:
        self.all = lengths.repeat_interleave(beams)
        self.lengths = self.all

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = self.lengths <= input_ids.shape[1]
        scores = scores.clone()
        scores[:, EOS] = torch.where(ends, 1000.0, -torch.inf)
        return scores

    def select(self, rows: torch.Tensor) -> None:
        """Rows that have ended leave quintet's batch."""
        self.lengths = self.lengths[rows]

    def reset(self) -> EndsAt:
        self.lengths = self.all
        return self


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES], default="base")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind (default 5)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    print(describe(), f"transformers {transformers.__version__}, quintet {quintet.__version__}", sep="\n")
    print(f"\n| {'what':52} | transformers |      quintet | ratio |")
    print("|---" * 4 + "|", flush=True)
    rows = []
    for row in itertools.chain(_memory(options.shape, options.rounds), _speed(options.shape, options.rounds)):
        rows.append(row)
        theirs, ours = row["transformers"], row["quintet"]
        cells = [f"{value:8.1f} {row['unit']:>3}" for value in (theirs, ours)]
        print(f"| {row['what']:52} | {cells[0]} | {cells[1]} | {theirs / ours:5.2f} |", flush=True)
    if options.json:
        text = json.dumps({"machine": describe(), "shape": options.shape, "rows": rows}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


def _speed(shape: str, rounds: int) -> Any:
    theirs, ours = pair(shape)
    for what, sources, strategy in CASES:
        torch.manual_seed(1)
        ids = torch.randint(2, 32000, (sources, SOURCE))
        options = {
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": NEW,
            "pad_token_id": 0,
            "eos_token_id": None,
        }
        options |= {"do_sample": False, "num_beams": 1, **strategy}
        ending = None
        if "rows end" in what:
            ending = EndsAt(_real_lengths(sources), options["num_beams"])
            options |= {"eos_token_id": EOS, "logits_processor": [ending]}

        def run(model: Any, ids: Any = ids, options: Any = options, ending: Any = ending) -> None:
            if ending is not None:
                ending.reset()
            model.generate(ids, **options)

        times = take_turns(lambda run=run: run(theirs), lambda run=run: run(ours), rounds)
        yield {
            "what": f"{what}, {sources} x {SOURCE} -> {NEW}",
            "unit": "ms",
            "transformers": times[0],
            "quintet": times[1],
        }


def _real_lengths(count: int) -> torch.Tensor:
    """How many tokens real French sentences have, as T5 would; up to NEW."""
    tokenizer = quintet.AutoTokenizer.from_pretrained(TATOEBA.parents[1] / "tokenizers" / "t5")
    lines = next(TATOEBA.glob("*dev*")).read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[1] for line in lines[:: len(lines) // count][:count]]  # the file is sorted by length
    return torch.tensor([min(len(ids), NEW) for ids in tokenizer(texts)["input_ids"]])


def _memory(shape: str, rounds: int) -> Any:
    peaks: dict[tuple[str, int], list[float]] = {}
    for _ in range(min(rounds, 3)):
        for library in ("transformers", "quintet"):
            for beams in (1, 8):
                command = [sys.executable, "-c", MEMORY, library, repr(SHAPES[shape]), str(beams)]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                peaks.setdefault((library, beams), []).append(float(result.stdout.split()[-1]) / 1e6)
    peak = {key: statistics.median(values) for key, values in peaks.items()}
    for beams in (1, 8):
        figures = {library: peak[library, beams] for library in ("transformers", "quintet")}
        yield {"what": f"peak memory, beam {beams}, source 512", "unit": "MB", **figures}
    growth = {library: peak[library, 8] - peak[library, 1] for library in ("transformers", "quintet")}
    yield {"what": "growth of it from beam 1 to beam 8", "unit": "MB", **growth}


if __name__ == "__main__":
    main()
