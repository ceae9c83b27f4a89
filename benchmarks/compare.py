"""quintet and transformers side by side: loading, encoding, a training step, greedy decoding.

Both run in one process on the same weights, taking turns round by round, so that whatever else the machine does falls
on both; loading is measured in processes of its own, because memory has no undo. A ratio above 1 means that quintet is
that many times faster (or smaller). Figures are medians.

    python benchmarks/compare.py                     # both shapes, everything
    python benchmarks/compare.py --shape small --rounds 5 --json figures.json
    python benchmarks/compare.py --device cuda       # what is computed, not what is loaded
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import describe

import quintet

SHAPES = {
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}
ENCODER_INPUTS = [(1, 64), (8, 128), (4, 512)]
TRAINING_INPUTS = [(8, 128, 32)]
DECODING_INPUTS = [(1, 64, 64), (8, 64, 64), (32, 64, 64)]

LOADER = """
import sys, time, resource
library, folder, dtype = sys.argv[1:]
import torch
torch.set_num_threads(1)
import importlib
model_class = importlib.import_module(library).T5ForConditionalGeneration
model_class.from_pretrained(folder, dtype=dtype)  # imports, page cache
times = []
for _ in range(9):
    start = time.perf_counter()
    model = model_class.from_pretrained(folder, dtype=dtype)
    times.append(time.perf_counter() - start)
print(sorted(times)[4])
"""
MEASURE_MEMORY = """
import sys, resource
library, folder, dtype = sys.argv[1:]
import torch, importlib
library = importlib.import_module(library)
model_class = library.T5ForConditionalGeneration
config = library.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=1, vocab_size=99)
model_class(config)  # what a first model imports is not the checkpoint's memory
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024
before = resident()
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
model = model_class.from_pretrained(folder, dtype=dtype)
checksum = sum(parameter.sum().item() for parameter in model.parameters())  # read every page
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
print(peak - before)
"""


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each kind (default 7)")
    parser.add_argument("--only", choices=["load", "encoder", "training", "decoding"], help="one kind of measurement")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.device == "cuda" and options.only == "load":
        parser.error("what is loaded is measured on a CPU")
    torch.set_default_device(options.device)
    kinds = KINDS if options.device == "cpu" else {kind: KINDS[kind] for kind in KINDS if kind != "load"}
    print(describe(), f"transformers {transformers.__version__}, quintet {quintet.__version__}", sep="\n")
    print(f"\n| {'shape':5} | {'what':38} | {'transformers':>13} | {'quintet':>13} | ratio |")
    print("|---" * 5 + "|", flush=True)
    rows: list[dict[str, Any]] = []
    for shape in SHAPES if options.shape == "both" else [options.shape]:
        for kind, measure in kinds.items():
            if options.only in (None, kind):
                for row in measure(shape, options.rounds):
                    rows.append({"shape": shape, **row})
                    print(_line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


def _line(row: dict[str, Any]) -> str:
    theirs, ours = row["transformers"], row["quintet"]
    cells = [f"{value:9.1f} {row['unit']:>3}" for value in (theirs, ours)]
    return f"| {row['shape']:5} | {row['what']:38} | {cells[0]} | {cells[1]} | {theirs / ours:5.2f} |"


def pair(shape: str) -> tuple[Any, Any]:
    """The same random weights in both; scaled, so that greedy decoding does not repeat one token."""
    values = {**SHAPES[shape], "decoder_start_token_id": 0}
    torch.manual_seed(0)
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**values)).eval()
    ours = quintet.T5ForConditionalGeneration(quintet.T5Config(**values)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def take_turns(theirs: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median milliseconds of both, measured alternately after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    theirs(), ours(), _wait()
    turns = [(theirs, times[0]), (ours, times[1])]
    for _ in range(rounds):
        turns.reverse()  # neither always runs first
        for run, into in turns:
            start = time.perf_counter()
            run()
            _wait()
            into.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def _wait() -> None:
    """Go on when the device has done what it was told to."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()


def _load(shape: str, rounds: int) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pair(shape)[0].save_pretrained(folder)
        size = os.path.getsize(Path(folder, "model.safetensors"))
        for dtype in ("auto", "bfloat16"):
            seconds = _in_processes(LOADER, folder, dtype, max(3, rounds // 2))
            times = dict(zip(("transformers", "quintet"), (s * 1e3 for s in seconds), strict=True))
            rows.append({"what": f"load, fp32 file as {dtype}", "unit": "ms", **times})
        for dtype in ("auto", "bfloat16"):
            theirs, ours = _in_processes(MEASURE_MEMORY, folder, dtype, 3)
            what = f"peak memory of it (file: {size / 1e6:.0f} MB)"
            rows.append({"what": what, "unit": "MB", "transformers": theirs / 1e6, "quintet": ours / 1e6})
    return rows


def _in_processes(code: str, folder: str, dtype: str, rounds: int) -> tuple[float, float]:
    results: dict[str, list[float]] = {"transformers": [], "quintet": []}
    for _ in range(rounds):
        for library, values in results.items():
            command = [sys.executable, "-c", code, library, folder, dtype]
            values.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return statistics.median(results["transformers"]), statistics.median(results["quintet"])


def _encoder(shape: str, rounds: int) -> list[dict[str, Any]]:
    theirs, ours = pair(shape)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        theirs.to(dtype), ours.to(dtype)
        for batch, length in ENCODER_INPUTS:
            ids = torch.randint(2, 32000, (batch, length))
            mask = torch.ones_like(ids)
            with torch.inference_mode():
                times = take_turns(
                    lambda ids=ids, mask=mask: theirs.encoder(input_ids=ids, attention_mask=mask),
                    lambda ids=ids, mask=mask: ours.encoder(input_ids=ids, attention_mask=mask),
                    rounds,
                )
            what = f"encoder {batch} x {length}, {_short(dtype)}"
            rows.append({"what": what, "unit": "ms", "transformers": times[0], "quintet": times[1]})
    return rows


def _training(shape: str, rounds: int) -> list[dict[str, Any]]:
    theirs, ours = (model.train() for model in pair(shape))
    rows = []
    for batch, source, target in TRAINING_INPUTS:
        ids, labels = torch.randint(2, 32000, (batch, source)), torch.randint(2, 32000, (batch, target))

        def step(model: Any, ids: torch.Tensor = ids, labels: torch.Tensor = labels) -> None:
            model.zero_grad(set_to_none=True)
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()

        times = take_turns(lambda: step(theirs), lambda: step(ours), rounds)
        what = f"forward and backward {batch} x {source}+{target}, fp32"
        rows.append({"what": what, "unit": "ms", "transformers": times[0], "quintet": times[1]})
    return rows


def _decoding(shape: str, rounds: int) -> list[dict[str, Any]]:
    theirs, ours = pair(shape)
    rows = []
    for batch, source, target in DECODING_INPUTS:
        ids = torch.randint(2, 32000, (batch, source))
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": target, "eos_token_id": None}
        options |= {"do_sample": False, "num_beams": 1, "pad_token_id": 0}
        times = take_turns(
            lambda ids=ids, options=options: theirs.generate(ids, **options),
            lambda ids=ids, options=options: ours.generate(ids, **options),
            max(3, rounds // 2),
        )
        what = f"greedy {batch} x {source} -> {target}, fp32"
        rows.append({"what": what, "unit": "ms", "transformers": times[0], "quintet": times[1]})
    return rows


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


KINDS = {"load": _load, "encoder": _encoder, "training": _training, "decoding": _decoding}

if __name__ == "__main__":
    main()
