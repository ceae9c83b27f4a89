"""From a checkpoint's files to a model: which tensor goes where, in which dtype, on which device.

The network is built on the meta device, which allocates nothing, and each parameter is then assigned from the
memory-mapped file. Nothing is copied unless its dtype or device changes.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from quintet.checkpoint import Checkpoint, Fp8Checkpoint, open_checkpoint
from quintet.config import T5Config
from quintet.config.checks import dtype_name
from quintet.files.gguf import is_gguf
from quintet.generation.config import GenerationConfig
from quintet.hub import Source
from quintet.model import placement
from quintet.model.embeddings import round_vocabulary
from quintet.model.init import initialize
from quintet.model.memory import give_back_freed_memory
from quintet.quantize import (
    Quantization,
    QuantizationConfig,
    QuantizedLayer,
    TorchAoConfig,
    as_quantization,
    replace_linears,
)

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel

logger = logging.getLogger(__name__)

PREFIX = "transformer."  # classification heads keep the network under this name
SHARED = "shared.weight"
SHARED_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEADS = ("lm_head.", "classification_head.", "classifier.", "qa_outputs.")  # normal to have one and load another
IGNORED_KEYWORDS = ("low_cpu_mem_usage", "trust_remote_code", "resume_download", "proxies", "mirror", "_fast_init")


@dataclass(frozen=True)
class Request:
    """How weights are to be loaded; see `T5PreTrainedModel.from_pretrained`."""

    dtype: torch.dtype | str | None = None
    device_map: Any = None
    ignore_mismatched_sizes: bool = False
    use_safetensors: bool | None = None
    variant: str | None = None
    gguf_file: str | None = None
    quantization: Quantization | None = None


@dataclass
class Report:
    """What did not go from the checkpoint into the model, and the reverse."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[torch.Size, torch.Size]] = field(default_factory=dict)
    """Sizes in the checkpoint and in the model."""

    def to_dict(self) -> dict[str, list[Any]]:
        """Under the reference's keys."""
        return {
            "missing_keys": self.missing,
            "unexpected_keys": self.unexpected,
            "mismatched_keys": list(self.mismatched),
            "error_msgs": [],
        }


def load(
    model_class: type[T5PreTrainedModel],
    name_or_path: str | os.PathLike[str],
    config: T5Config | str | os.PathLike[str] | None,
    request: Request,
    kwargs: dict[str, Any],
) -> tuple[T5PreTrainedModel, Report]:
    """Build a model and fill it from the checkpoint; `kwargs` are hub options and configuration overrides."""
    source = Source(name_or_path, **Source.take_options(kwargs))
    for ignored in IGNORED_KEYWORDS:
        kwargs.pop(ignored, None)
    placement_options = placement.take_options(kwargs)
    config = _config(model_class, source, config, request.gguf_file, kwargs)
    checkpoint = Fp8Checkpoint(
        open_checkpoint(
            source,
            use_safetensors=request.use_safetensors,
            variant=request.variant,
            gguf_file=request.gguf_file,
        )
    )
    dtype = _dtype(request.dtype, config, checkpoint)
    quantization = _quantization(request.quantization, config)
    config.dtype = dtype
    own = quantization if isinstance(quantization, QuantizationConfig) else None
    if own is not None:
        config.update({"quantization_config": own.to_dict()})
    model = empty_model(model_class, config, own)
    placement.check_complete(model, request.device_map)
    device = placement.single_device(request.device_map)
    report = _fill(model, checkpoint, dtype, device or torch.device("cpu"), request.ignore_mismatched_sizes)
    model.generation_config = generation_config(model, source)
    model.eval()
    if own is not None:
        give_back_freed_memory()
    if isinstance(quantization, TorchAoConfig):
        quantization.apply(model)
    if device is None:
        model = placement.spread(model, request.device_map, **placement_options)
    return model, report


def empty_model(
    model_class: type[T5PreTrainedModel], config: T5Config, quantization: QuantizationConfig | None = None
) -> T5PreTrainedModel:
    """A model on the meta device: names, shapes and ties, and no memory. ValueError if it cannot be quantized so."""
    with torch.device("meta"):
        model = model_class(config)
        if quantization is not None:
            if quantization.vocabulary_bits is not None:
                round_vocabulary(model)
            replace_linears(model, quantization)
    return model


def _config(
    model_class: type[T5PreTrainedModel],
    source: Source,
    config: T5Config | str | os.PathLike[str] | None,
    gguf_file: str | None,
    overrides: dict[str, Any],
) -> T5Config:
    if isinstance(config, T5Config):
        values: dict[str, Any] = config.to_dict()
        overrides = {"attn_implementation": config._attn_implementation, **overrides}
        config_class = type(config)
    else:
        config_class = model_class.config_class
        read = config_class.get_config_dict
        values = read(source, gguf_file) if config is None else read(Source(config))
    values["name_or_path"] = str(source)
    resolved, unknown = config_class.from_dict(values, return_unused_kwargs=True, **overrides)
    if unknown:
        raise TypeError(
            f"{model_class.__name__}.from_pretrained got unknown keywords: {', '.join(sorted(unknown))}; beside its "
            "own parameters and the hub options, it takes fields of the configuration"
        )
    return resolved


def _dtype(wanted: torch.dtype | str | None, config: T5Config, checkpoint: Checkpoint) -> torch.dtype:
    if wanted is None:
        return torch.get_default_dtype()
    if wanted != "auto":
        return getattr(torch, dtype_name(wanted))
    if config.dtype is not None:
        return config.dtype
    dtypes = (checkpoint.dtype(name) for name in checkpoint)
    return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.get_default_dtype())


def _quantization(wanted: Quantization | None, config: T5Config) -> Quantization | None:
    """What the caller wants, or else what the checkpoint is; ValueError if it is already something else."""
    stored = as_quantization(getattr(config, "quantization_config", None))
    if wanted is not None and stored is not None and wanted != stored:
        raise ValueError(f"{config.name_or_path} is already quantized, as {stored}; it cannot become {wanted}")
    return stored if wanted is None else wanted


class Names:
    """Finds a parameter in a checkpoint of any head of the family."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._stored = {name.removeprefix(PREFIX): name for name in checkpoint}

    def find(self, parameter: str) -> str | None:
        """The checkpoint's name for a parameter, if it is there."""
        name = parameter.removeprefix(PREFIX)
        candidates = (name, *SHARED_ALIASES) if name == SHARED else (name,)
        return next((self._stored[candidate] for candidate in candidates if candidate in self._stored), None)

    def unused(self, parameters: Iterable[str], ignored: Iterable[str]) -> list[str]:
        """The checkpoint's names that no parameter has and no pattern covers."""
        used = {name.removeprefix(PREFIX) for name in parameters}
        return sorted(
            stored
            for name, stored in self._stored.items()
            if name not in used and not any(re.search(pattern, name) for pattern in ignored)
        )


def _fill(
    model: T5PreTrainedModel,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    ignore_mismatched_sizes: bool,
) -> Report:
    names, report = Names(checkpoint), Report()
    filled: dict[nn.Parameter, nn.Parameter] = {}  # a tied parameter comes twice and is read once
    tied = model.tied_names()
    to_round = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
        and f"{path}.weight" not in tied
        and names.find(f"{path}.weight_scale") is None
    }
    for path, module in model.named_modules():
        if path in to_round:
            name, before = f"{path}.weight", dict(module._parameters)
            _round(to_round[path], names.find(name), checkpoint, name, target_dtype(model, name, dtype), device, report)
            filled |= {before[leaf]: parameter for leaf, parameter in module._parameters.items()}
            continue
        for leaf, expected in module._parameters.items():
            if expected is None:
                continue
            if expected not in filled:
                name = f"{path}.{leaf}"
                target = target_dtype(model, name, dtype) if expected.is_floating_point() else expected.dtype
                tensor = _fitting(names.find(name), checkpoint, name, expected, report)
                if tensor is None:
                    tensor = torch.empty(expected.shape, dtype=target, device=device)
                # Copied where weights are rounded: a view of the file would keep all of it in memory.
                tensor = tensor.to(device=device, dtype=target, copy=bool(to_round))
                filled[expected] = nn.Parameter(tensor, expected.requires_grad)
            module._parameters[leaf] = filled[expected]
    every_name = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    report.unexpected = names.unused(every_name, model.unused_in_checkpoint)
    _finish(model, report, ignore_mismatched_sizes)
    return report


def _round(
    layer: QuantizedLayer,
    stored: str | None,
    checkpoint: Checkpoint,
    name: str,
    dtype: torch.dtype,
    device: torch.device,
    report: Report,
) -> None:
    """Quantize one layer from the floats of the checkpoint, and give back the memory that reading them took."""
    expected = torch.empty(layer.full_shape, device="meta")
    tensor = _fitting(stored, checkpoint, name, expected, report)
    if tensor is None:
        return
    try:
        layer.round_from(tensor, dtype, device)
    except ValueError as error:
        raise ValueError(f"{name} cannot be quantized: {error}") from error
    checkpoint.release()


def _fitting(
    stored: str | None, checkpoint: Checkpoint, name: str, expected: torch.Tensor, report: Report
) -> torch.Tensor | None:
    """The checkpoint's tensor for a parameter; None, and a line in the report, if there is none of that shape.

    RuntimeError if it holds integers where floats are expected, or the reverse: converting one would give nonsense.
    """
    if stored is None:
        report.missing.append(name)
        return None
    tensor = checkpoint.tensor(stored)
    if tensor.is_floating_point() != expected.is_floating_point():
        raise RuntimeError(
            f"the checkpoint holds {stored} as {tensor.dtype}, which the configuration does not say: quantized weights "
            "are loaded with the config.json that was saved with them"
        )
    if tensor.shape == expected.shape:
        return tensor
    report.mismatched[name] = (tensor.shape, expected.shape)
    return None


def target_dtype(model: T5PreTrainedModel, parameter: str, dtype: torch.dtype) -> torch.dtype:
    """What a parameter of floats is kept in: float16 has some in float32, whose activations leave its range."""
    keeps = dtype == torch.float16 and any(part in model._keep_in_fp32_modules for part in parameter.split("."))
    return torch.float32 if keeps else dtype


def _finish(model: T5PreTrainedModel, report: Report, ignore_mismatched_sizes: bool) -> None:
    """Draw what the checkpoint did not give, and say what did not fit."""
    name, origin = type(model).__name__, model.config.name_or_path
    sizes = [f"{key} ({tuple(have)} there, {tuple(want)} here)" for key, (have, want) in report.mismatched.items()]
    if sizes and not ignore_mismatched_sizes:
        raise RuntimeError(
            f"the checkpoint {origin} does not fit {name} with this configuration: {', '.join(sizes)}. "
            "Pass ignore_mismatched_sizes=True to draw these weights anew"
        )
    unfilled = {*report.missing, *report.mismatched}
    if lost := sorted(name for name in unfilled if not model.get_parameter(name).is_floating_point()):
        raise RuntimeError(
            f"the checkpoint {origin} has no fitting weights for {', '.join(lost)}, and quantized ones cannot be "
            "drawn: load it without quantization_config"
        )
    if report.missing or sizes:
        initialize(model, model.config, unfilled)
        logger.warning(
            "%s: the checkpoint %s has no fitting weights for %s. They are newly initialised: train the model first.",
            name,
            origin,
            ", ".join(report.missing + sizes),
        )
    useless = [key for key in report.unexpected if not key.startswith(HEADS)]
    if useless:
        logger.warning("%s: the checkpoint %s has weights without a place here: %s", name, origin, ", ".join(useless))


def generation_config(model: T5PreTrainedModel, source: Source) -> GenerationConfig | None:
    """How a checkpoint says its model generates; None for a model that does not."""
    if model.get_output_embeddings() is None:
        return None
    if is_gguf(source.name_or_path):
        return GenerationConfig.from_model_config(model.config)
    return GenerationConfig.for_model(model.config, source)
