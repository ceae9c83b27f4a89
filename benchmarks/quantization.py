"""What quantization costs in quality: quintet's int8 and int4, and torchao's, against float32 on the same checkpoint.

For translations (Tatoeba's dev pairs) and summaries (SciTLDR's dev set), none of which the roundings have seen:
the size of the weights, the loss per target token, the Kullback-Leibler divergence of the predictions from float32's
(which shows what the loss hides where a model is unsure anyway), the cosine between both scores of a token about their
mean, and how many most probable tokens, and how many whole greedy generations, are the same.
A second table rounds one kind of layer at a time. Speed is not measured here.

    python benchmarks/quantization.py --model ../shared/models/flan-t5-small-title --data ../shared/data
    python benchmarks/quantization.py ... --json figures.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import describe

import quintet
from quintet.model.engines import choose_engine
from quintet.model.inputs import Inputs
from quintet.quantize import QuantizationConfig, TorchAoConfig

KINDS = ("q", "k", "v", "o", "wi_0", "wi_1", "wo", "lm_head")
EAGER: dict[str, dict[str, Any]] = {
    "int8": {"quantization_config": "int8"},
    "int4": {"quantization_config": "int4"},
    "int4, group 64": {"quantization_config": QuantizationConfig(4, 64)},
    "int8, vocabulary int8": {"quantization_config": QuantizationConfig(8, vocabulary_bits=8)},
    "int4, vocabulary int8": {"quantization_config": QuantizationConfig(4, 32, vocabulary_bits=8)},
}
NATIVE: dict[str, dict[str, Any]] = {  # rounds activations, too
    "native float32": {},
    "native bfloat16": {"dtype": torch.bfloat16},
    "native int8": {"quantization_config": "int8"},
    "native int8, bfloat16": {"quantization_config": "int8", "dtype": torch.bfloat16},
    "native int4, bfloat16": {"quantization_config": "int4", "dtype": torch.bfloat16},
    "native int8 with vocabulary": {"quantization_config": QuantizationConfig(8, vocabulary_bits=8)},
    "native int4, vocabulary int8": {"quantization_config": QuantizationConfig(4, 32, vocabulary_bits=8)},
}
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder with an untied, gated checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="a folder with tatoeba/ and scitldr/")
    parser.add_argument("--sentences", type=int, default=64, help="pairs of each language")
    parser.add_argument("--summaries", type=int, default=16)
    parser.add_argument("--native", action="store_true", help="only what the native engine computes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    print(describe())
    tokenizer = quintet.AutoTokenizer.from_pretrained(options.model)
    texts = {
        "en-de": _pairs(options.data, "en-de", "German", options.sentences),
        "en-fr": _pairs(options.data, "en-fr", "French", options.sentences),
        "tldr": _summaries(options.data, options.summaries),
    }
    batches = {name: list(_batches(tokenizer, pairs)) for name, pairs in texts.items()}
    rows = [{"what": "float32", **_figures(_load(options.model), batches, reference := {})}]
    _print_row(rows[0], batches)
    for what, keywords in _choices(options.native).items():
        rows.append({"what": what, **_figures(_load(options.model, **keywords), batches, reference)})
        _print_row(rows[-1], batches)
    if options.native:
        return
    kinds = [_sensitivity(options.model, kind, batches, reference) for kind in KINDS]
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": describe(), "rows": rows, "kinds": kinds}, indent=2) + "\n")


def _choices(only_native: bool) -> dict[str, dict[str, Any]]:
    """What is measured, and the keywords of `from_pretrained` for it."""
    native = {what: {"engine": "auto", **keywords} for what, keywords in NATIVE.items()}
    if only_native:
        return native
    if importlib.util.find_spec("torchao") is None:
        return EAGER | native
    torchao = {
        "torchao int8": {"quantization_config": TorchAoConfig("int8_weight_only")},
        "torchao int4, group 128": {"quantization_config": TorchAoConfig("int4_weight_only", group_size=128)},
        "torchao int4, group 32": {"quantization_config": TorchAoConfig("int4_weight_only", group_size=32)},
    }
    return EAGER | torchao | native


def _load(folder: Path, engine: str = "eager", **keywords: Any) -> Any:
    return quintet.T5ForConditionalGeneration.from_pretrained(folder, engine=engine, **keywords)


# -- texts


def _pairs(data: Path, languages: str, name: str, count: int) -> list[tuple[str, str]]:
    lines = (data / "tatoeba" / f"{languages}.dev.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t")[:2] for line in lines]
    first = dict(reversed(pairs))  # a sentence may have several translations
    chosen = list(first.items())[:: max(1, len(first) // count)][:count]
    return [(f"translate English to {name}: {source}", target) for source, target in chosen]


def _summaries(data: Path, count: int) -> list[tuple[str, str]]:
    lines = (data / "scitldr" / "dev.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    papers = [json.loads(line) for line in lines]
    return [(f"summarize: {' '.join(paper['source'])}", paper["target"][0]) for paper in papers]


def _batches(tokenizer: Any, pairs: list[tuple[str, str]]) -> Iterator[dict[str, torch.Tensor]]:
    for start in range(0, len(pairs), BATCH):
        sources, targets = zip(*pairs[start : start + BATCH], strict=True)
        labels = tokenizer(list(targets), return_tensors="pt", padding=True, truncation=True, max_length=64)
        inputs = tokenizer(list(sources), return_tensors="pt", padding=True, truncation=True, max_length=512)
        yield {**inputs, "labels": labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)}


# -- figures


def _dequantize_torchao(model: Any) -> None:
    """Give layers that torchao rounded their floats back: the same values, without its slow float32 kernels."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and hasattr(module.weight, "__tensor_flatten__"):
            module.weight = torch.nn.Parameter(module.weight.dequantize(), requires_grad=False)


@torch.inference_mode()
def _figures(
    model: Any, batches: dict[str, list[dict[str, torch.Tensor]]], reference: dict[str, Any]
) -> dict[str, Any]:
    """Figures of a model; those of float32 come first and leave in `reference` what the others are compared with."""
    figures: dict[str, Any] = {"megabytes": sum(map(_nbytes, model.parameters())) / 1e6}
    _dequantize_torchao(model)
    for name, group in batches.items():
        predicted = _predictions(model, group)
        generated = [row for batch in group for row in _generations(model, batch)]
        expected = reference.setdefault(name, {"predicted": predicted, "generated": generated})
        targets = torch.cat([batch["labels"][batch["labels"] != -100] for batch in group])
        same = sum(one == other for one, other in zip(generated, expected["generated"], strict=True))
        figures[name] = {
            "loss": F.nll_loss(predicted, targets).item(),
            "divergence": _divergence(expected["predicted"], predicted),
            "cosine": _cosine(expected["predicted"], predicted),
            "argmax": (expected["predicted"].argmax(1) == predicted.argmax(1)).float().mean().item(),
            "same": same / len(generated),
        }
    return figures


def _predictions(model: Any, group: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Log-probabilities (target tokens, vocabulary)."""
    rows = []
    for batch in group:
        inputs = Inputs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        engine = choose_engine(model, inputs)
        session = engine.session(inputs, engine.encode(inputs), batch["labels"].shape[1])
        scores = session.step_all(model.prepare_decoder_input_ids_from_labels(batch["labels"]))
        rows.append(scores[batch["labels"] != -100])
    return torch.cat(rows).float().log_softmax(-1)


def _divergence(expected: torch.Tensor, predicted: torch.Tensor) -> float:
    return F.kl_div(predicted, expected, reduction="batchmean", log_target=True).item()


def _cosine(expected: torch.Tensor, predicted: torch.Tensor) -> float:
    """The mean over tokens, about the mean of their scores, which says nothing and is most of their size."""
    ours, theirs = (scores - scores.mean(dim=1, keepdim=True) for scores in (predicted, expected))
    return F.cosine_similarity(ours, theirs, dim=1).mean().item()


def _generations(model: Any, batch: dict[str, torch.Tensor]) -> list[list[int]]:
    ids = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=32)
    return [[token for token in row if token != model.config.pad_token_id] for row in ids.tolist()]


def _nbytes(tensor: torch.Tensor) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    inner, _ = tensor.__tensor_flatten__()
    return sum(_nbytes(getattr(tensor, name)) for name in inner)


@torch.inference_mode()
def _sensitivity(folder: Path, kind: str, batches: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The divergence, over the translations, when only one kind of layer is rounded."""
    kept = tuple(other for other in KINDS if other != kind)
    row: dict[str, Any] = {"kind": kind}
    for bits, group_size in ((8, None), (4, 32)):
        model = _load(folder, quantization_config=QuantizationConfig(bits, group_size, kept))
        names = [name for name in batches if name != "tldr"]
        found = [_divergence(reference[name]["predicted"], _predictions(model, batches[name])) for name in names]
        row[f"int{bits}"] = sum(found) / len(found)
    print(f"| {kind:8} | {row['int8']:.5f} | {row['int4']:.4f} |", flush=True)
    return row


def _print_row(row: dict[str, Any], batches: dict[str, Any]) -> None:
    formats = {"loss": ".3f", "divergence": ".4f", "cosine": ".5f", "argmax": ".1%", "same": "4.0%"}
    cells = [f"{row[name][figure]:{form}}" for name in batches for figure, form in formats.items()]
    print(f"| {row['what']:23} | {row['megabytes']:5.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
