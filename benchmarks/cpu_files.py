"""The models that benchmarks/cpu.py runs: one set of random weights for each shape, in each library's format.

Weights drawn as T5 draws them make greedy search repeat one token: the last token's embedding outweighs all else, and
is the output matrix, too; and relu's mean adds up over the layers to the same vector for all. So `wo`, the last matrix
of each feed-forward layer, is scaled up, and its rows are shifted to sum to 0, which takes the mean out: an answer of
64 tokens then has some 60 different ones. The end token's row is zero, and its score, 0, never among the highest: all
libraries give as many tokens as asked for, without being told to suppress one.
"""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cpu_cases import SHAPES, VOCABULARY

PAD, EOS, UNKNOWN = 0, 1, 2
WORDS = ["<pad>", "</s>", "<unk>", *(str(number) for number in range(3, VOCABULARY))]
SCALE = 16.0


def make(root: Path, shape: str, library: str) -> None:
    """Write what a library needs into root/shape, unless it is there already; the checkpoint comes first."""
    maker = MAKERS.get(library)
    into = root / shape / library
    if maker is None or into.exists():
        return
    unfinished = into.with_name(f"{library}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    maker(root / shape / "checkpoint", unfinished, shape)
    unfinished.rename(into)


def _make_checkpoint(_: Path, into: Path, shape: str) -> None:
    """As transformers saves a T5, with a tokenizer that has a word for each id (converters ask for one)."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    torch.manual_seed(0)
    config = transformers.T5Config(**SHAPES[shape], vocab_size=VOCABULARY, decoder_start_token_id=PAD)
    model = transformers.T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".wo.weight"):
                parameter.sub_(parameter.mean(dim=1, keepdim=True)).mul_(SCALE)
        model.shared.weight[EOS] = 0
    model.save_pretrained(into)
    words = WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=WORDS[UNKNOWN])
    special = {"pad_token": WORDS[PAD], "eos_token": WORDS[EOS], "unk_token": WORDS[UNKNOWN]}
    transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), **special).save_pretrained(into)


def _make_ctranslate2(checkpoint: Path, into: Path, shape: str) -> None:
    """The whole model, and its encoder alone, in float32 and int8."""
    from ctranslate2.converters import TransformersConverter
    from ctranslate2.specs import TransformerEncoderModelSpec

    class EncoderConverter(TransformersConverter):
        def _load(self) -> Any:
            spec = TransformerEncoderModelSpec(super()._load().encoder)
            spec.register_vocabulary(WORDS)
            return spec

    for precision in ("float32", "int8"):
        TransformersConverter(str(checkpoint)).convert(str(into / precision), quantization=precision)
        EncoderConverter(str(checkpoint)).convert(str(into / f"{precision}-encoder"), quantization=precision)


def _make_onnxruntime(checkpoint: Path, into: Path, shape: str) -> None:
    """Encoder with the source's keys and values, decoder step, and encoder alone, in float32 and int8."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    import quintet

    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from export_onnx import export

    logging.disable(logging.WARNING)  # this process does nothing else
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its libraries
        export(quintet.T5ForConditionalGeneration.from_pretrained(checkpoint), into / "exported")
    for precision in ("float32", "int8"):
        (into / precision).mkdir()
    for name in ("encoder", "decoder"):
        graph = onnx.load(into / "exported" / f"{name}.onnx")
        _divide_by_roots(graph.graph)
        _turn_weights(graph.graph)
        _save_onnx(graph, into / "float32" / f"{name}.onnx")
    shutil.rmtree(into / "exported")
    names = ["input_ids", "attention_mask"], ["last_hidden_state"]
    alone = onnx.utils.Extractor(onnx.load(into / "float32" / "encoder.onnx")).extract_model(*names)
    _save_onnx(alone, into / "float32" / "states.onnx")
    for name in ("encoder", "decoder", "states"):
        quantize_dynamic(
            into / "float32" / f"{name}.onnx",
            into / "int8" / f"{name}.onnx",
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )


def _save_onnx(model: Any, path: Path) -> None:
    import onnx

    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def _divide_by_roots(graph: Any) -> None:
    """x * (1 / root) becomes x / root, which ONNX Runtime knows as a part of RMSNorm and computes in one operation."""
    roots = {node.output[0]: node for node in graph.node if node.op_type == "Reciprocal"}
    for node in graph.node:
        if node.op_type == "Mul" and node.input[1] in roots:
            node.op_type = "Div"
            node.input[1] = roots[node.input[1]].input[0]
    for node in roots.values():
        graph.node.remove(node)


def _turn_weights(graph: Any) -> None:
    """Weights that the graph transposes in each run are transposed here; only then are they packed, or quantized."""
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        turned = numpy_helper.to_array(weights[node.input[0]]).transpose(list(node.attribute[0].ints))
        graph.initializer.append(numpy_helper.from_array(turned.copy(), node.output[0]))
        graph.node.remove(node)


MAKERS: dict[str, Callable[[Path, Path, str], None]] = {
    "checkpoint": _make_checkpoint,
    "ctranslate2": _make_ctranslate2,
    "onnxruntime": _make_onnxruntime,
}
