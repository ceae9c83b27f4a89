"""Rounding while loading: the floats are never all in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import quintet
from quintet.quantize import QuantizationConfig

SIZES = {"vocab_size": 512, "d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "d_kv": 64}

# Prints how far the process's own memory rises above what it was, at most and in the end, in MB. Pages of the mapped
# file are not its own: the system takes them back when it likes. The peak is sampled while the model loads.
MEASURE = """
import json, sys, threading, quintet
from pathlib import Path

def own():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000

small, large = sys.argv[1:3]
quantization = json.loads(sys.argv[3])
load = quintet.T5ForConditionalGeneration.from_pretrained
load(small, quantization_config=quantization)
before, samples, done = own(), [], threading.Event()

def sample():
    while not done.wait(0.001):
        samples.append(own())

thread = threading.Thread(target=sample)
thread.start()
model = load(large, quantization_config=quantization)
done.set()
thread.join()
print(max([*samples, own()]) - before, own() - before, sum(p.nbytes for p in model.parameters()) / 1e6)
"""


ON_LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")


def measured(quantization: QuantizationConfig, vocabulary: int, folder: Path) -> tuple[float, ...]:
    """Megabytes: the float weights' file, then what MEASURE prints."""
    large, small = folder / "large", folder / "small"
    for path, sizes in ((large, SIZES | {"vocab_size": vocabulary}), (small, SIZES | {"num_layers": 1})):
        quintet.T5ForConditionalGeneration(quintet.T5Config(**sizes)).save_pretrained(path)
    floats = (large / "model.safetensors").stat().st_size / 1e6
    arguments = [sys.executable, "-c", MEASURE, str(small), str(large), json.dumps(quantization.to_dict())]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return floats, *map(float, result.stdout.split())


@ON_LINUX
@pytest.mark.parametrize(
    ("quantization", "vocabulary"),
    [
        (QuantizationConfig(8), 512),
        (QuantizationConfig(4, 32), 512),
        (QuantizationConfig(8, vocabulary_bits=8), 20_000),
    ],
    ids=["int8", "int4", "int8 with vocabulary"],
)
def test_the_peak_is_the_rounded_weights_and_one_tensor(quantization, vocabulary, tmp_path):
    floats, peak, after, rounded = measured(quantization, vocabulary, tmp_path)
    assert rounded < floats * 0.3
    # The allocator keeps freed pages for a while, more or fewer from run to run: only the floats together are too much.
    assert after <= peak < floats


@ON_LINUX
def test_nothing_but_the_rounded_weights_is_left(tmp_path):
    """The pieces that rounding a large vocabulary leaves in the heap, several times the weights, are given back."""
    _, _, after, rounded = measured(QuantizationConfig(8, vocabulary_bits=8), 32_128, tmp_path)
    assert after < rounded + 30
