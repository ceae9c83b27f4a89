"""The libraries that benchmarks/cpu.py compares, behind one surface: `inputs`, `generate`, `encode`.

Each has a process of its own, in which the functions at the end of this file run.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu_cases import Case, Contestant
from cpu_files import WORDS
from machine import memory

from quintet.quantize.config import PRESETS

IDS = {word: number for number, word in enumerate(WORDS)}


class TorchModel:
    """quintet and transformers, which are called alike."""

    def __init__(self, root: Path, contestant: Contestant, threads: int) -> None:
        torch.set_num_threads(threads)
        self._library = importlib.import_module(contestant.library)
        self._folder = root / "checkpoint"
        self._options = _precision(contestant.precision)

    def _load(self, name: str) -> Any:
        return getattr(self._library, name).from_pretrained(self._folder, **self._options).eval()

    @cached_property
    def model(self) -> Any:
        return self._load("T5ForConditionalGeneration")

    @cached_property
    def _encoder(self) -> Any:
        return self._load("T5EncoderModel")

    def inputs(self, ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(ids)

    def generate(self, ids: torch.Tensor, new: int, beams: int) -> list[list[int]]:
        mask = torch.ones_like(ids)
        options = {"max_new_tokens": new, "num_beams": beams, "do_sample": False}
        return self.model.generate(ids, attention_mask=mask, **options)[:, 1:].tolist()

    @torch.inference_mode()
    def encode(self, ids: torch.Tensor) -> None:
        self._encoder(input_ids=ids, attention_mask=torch.ones_like(ids))


def _precision(name: str) -> dict[str, Any]:
    """The arguments of from_pretrained."""
    if not name.startswith("int"):
        return {"dtype": getattr(torch, name)}
    preset = name.removesuffix("_all")
    config = PRESETS[preset] if preset == name else replace(PRESETS[preset], vocabulary_bits=8)
    return {"dtype": torch.bfloat16, "quantization_config": config}


class CTranslate2:
    def __init__(self, root: Path, contestant: Contestant, threads: int) -> None:
        self._library = importlib.import_module("ctranslate2")
        self._folder = root / "ctranslate2"
        self._precision = contestant.precision
        self._options = {"device": "cpu", "compute_type": contestant.precision, "intra_threads": threads}

    @cached_property
    def model(self) -> Any:
        return self._library.Translator(str(self._folder / self._precision), **self._options)

    @cached_property
    def _encoder(self) -> Any:
        return self._library.Encoder(str(self._folder / f"{self._precision}-encoder"), **self._options)

    def inputs(self, ids: np.ndarray) -> Any:
        return [[WORDS[number] for number in row] for row in ids.tolist()], ids.tolist()

    def generate(self, inputs: Any, new: int, beams: int) -> list[list[int]]:
        found = self.model.translate_batch(inputs[0], beam_size=beams, max_decoding_length=new, max_input_length=0)
        return [[IDS[word] for word in result.hypotheses[0]] for result in found]

    def encode(self, inputs: Any) -> None:
        self._encoder.forward_batch(inputs[1])


class OnnxRuntime:
    """Graphs of examples/export_onnx.py; keys and values stay with the library between steps."""

    def __init__(self, root: Path, contestant: Contestant, threads: int) -> None:
        self._library = importlib.import_module("onnxruntime")
        self._folder = root / "onnxruntime" / contestant.precision
        self._options = self._library.SessionOptions()
        self._options.intra_op_num_threads = threads

    def _load(self, name: str) -> Any:
        providers = ["CPUExecutionProvider"]
        return self._library.InferenceSession(self._folder / f"{name}.onnx", self._options, providers=providers)

    @cached_property
    def model(self) -> Any:
        """Encoder and decoder."""
        return self._load("encoder"), self._load("decoder")

    @cached_property
    def _states(self) -> Any:
        return self._load("states")

    def _value(self, array: np.ndarray) -> Any:
        return self._library.OrtValue.ortvalue_from_numpy(array)

    def inputs(self, ids: np.ndarray) -> dict[str, Any]:
        return {"input_ids": self._value(ids), "attention_mask": self._value(np.ones_like(ids))}

    def encode(self, inputs: dict[str, Any]) -> None:
        self._states.run_with_ort_values(["last_hidden_state"], inputs)

    def generate(self, inputs: dict[str, Any], new: int, beams: int) -> list[list[int]]:
        fixed, past = self._start(inputs, beams)
        rows = fixed["attention_mask"].shape()[0]
        tokens = np.zeros((rows, 1), np.int64)
        scores = np.array([0.0] + [-np.inf] * (beams - 1), np.float32)
        for _ in range(new):
            logits, past = self._step(tokens[:, -1:], fixed, past)
            if beams == 1:
                chosen = logits.argmax(-1)
            else:
                scores, parents, chosen = _best(scores, logits)
                tokens, past = tokens[parents], self._reorder(past, parents)
            tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        return tokens[: rows // beams, 1:].tolist()

    def _start(self, inputs: dict[str, Any], beams: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the decoder gets in each step, a row for each beam, and its own keys and values: none yet."""
        encoder, decoder = self.model
        names = [output.name for output in encoder.get_outputs()[1:]]
        fixed = dict(zip(names, encoder.run_with_ort_values(names, inputs), strict=True))
        fixed["attention_mask"] = inputs["attention_mask"]
        if beams > 1:
            fixed = {name: self._value(value.numpy().repeat(beams, axis=0)) for name, value in fixed.items()}
        rows, heads, _, d_kv = fixed[names[0]].shape()
        none = self._value(np.zeros((rows, heads, 0, d_kv), np.float32))
        past = {item.name: none for item in decoder.get_inputs() if item.name.startswith("past")}
        return fixed, past

    def _step(self, tokens: np.ndarray, fixed: dict[str, Any], past: dict[str, Any]) -> tuple[np.ndarray, Any]:
        """The scores (rows, vocabulary) of what comes next, and the keys and values with those of `tokens`."""
        names = ["logits", *(name.replace("past", "present") for name in past)]
        given = {"decoder_input_ids": self._value(np.ascontiguousarray(tokens)), **fixed, **past}
        logits, *present = self.model[1].run_with_ort_values(names, given)
        return logits.numpy()[:, -1], dict(zip(past, present, strict=True))

    def _reorder(self, past: dict[str, Any], parents: np.ndarray) -> dict[str, Any]:
        if (parents == np.arange(len(parents))).all():
            return past
        return {name: self._value(value.numpy()[parents]) for name, value in past.items()}


def _best(scores: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The beams of a source after a step, best first: scores, parents, tokens. None of them ever ends."""
    beams, vocabulary = logits.shape
    highest = logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True)) + highest
    total = (logits - normalizer + scores[:, None]).ravel()
    best = np.argpartition(total, -beams)[-beams:]
    best = best[np.argsort(-total[best])]
    return total[best], best // vocabulary, best % vocabulary


LIBRARIES = {"quintet": TorchModel, "transformers": TorchModel, "ctranslate2": CTranslate2, "onnxruntime": OnnxRuntime}

# -- in the process of a contestant

_running: Any = None


def start(root: Path, contestant: Contestant, threads: int) -> None:
    """Prepare this process to run cases of one contestant."""
    global _running
    _running = LIBRARIES[contestant.library](root, contestant, threads)


def run(case: Case) -> tuple[float, list[list[int]]]:
    """Seconds that a case takes, and the new tokens. Raises ValueError if they are fewer or more than asked for."""
    ids = np.random.default_rng(0).integers(3, 32000, (case.batch, case.source))
    inputs = _running.inputs(ids)
    begin = time.perf_counter()
    tokens = _running.generate(inputs, case.new, case.beams) if case.new else _running.encode(inputs) or []
    seconds = time.perf_counter() - begin
    if case.new and {len(row) for row in tokens} != {case.new}:
        raise ValueError(f"asked for {case.new} new tokens, got {sorted(len(row) for row in tokens)}")
    return seconds, tokens


def step_bytes() -> int:
    """Bytes of the weights that a step of the decoder reads, in quintet and transformers."""
    once = ("encoder.", "shared.", "decoder.embed_tokens.")
    sources = (".EncDecAttention.k.", ".EncDecAttention.v.")
    return sum(
        tensor.nbytes
        for name, tensor in _running.model.named_parameters(remove_duplicate=False)
        if not name.startswith(once) and not any(part in name for part in sources)
    )


def peak_memory(root: Path, contestant: Contestant, threads: int, case: Case) -> tuple[int, int]:
    """Bytes over an interpreter with torch: at most while loading and running a case, and afterwards. Linux only."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start(root, contestant, threads)
    run(case)
    return memory("VmHWM") - before, memory("VmRSS") - before
