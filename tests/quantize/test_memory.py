"""What a model takes that is rounded while it is read: its own size, and little more, then and afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import quintet

LITTLE = 30_000_000  # bytes: rows in work, code that is used for the first time

PROGRAM = """
import re, sys
from pathlib import Path
import torch
from quintet import QuantizationConfig, T5ForConditionalGeneration

def held(key):
    return int(re.search(rf"{key}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

torch.ones(512, 512).abs().round().to(torch.int8)
before = held("VmRSS")
config = QuantizationConfig(8, vocabulary_bits=8)
model = T5ForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.bfloat16, quantization_config=config)
size = sum({tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}.values())
print(size, held("VmHWM") - before, held("VmRSS") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_rounding_while_reading_takes(tmp_path: Path) -> None:
    """The float32 file is mapped; its largest weight, the vocabulary's, is 66 MB of 220."""
    sizes = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "decoder_start_token_id": 0}
    with torch.device("meta"):
        model = quintet.T5ForConditionalGeneration(quintet.T5Config(**sizes))
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    model.save_pretrained(tmp_path)
    del model
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    size, peak, after = map(int, shown.split())
    assert after < size + LITTLE
    assert peak < size + 66_000_000 + LITTLE
