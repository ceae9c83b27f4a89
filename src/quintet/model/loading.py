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

from quintet.checkpoint import Checkpoint, open_checkpoint
from quintet.config import T5Config
from quintet.config.checks import dtype_name
from quintet.generation.config import GenerationConfig
from quintet.hub import Source
from quintet.model import placement
from quintet.model.init import initialize
from quintet.quantize import TorchAoConfig

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel

logger = logging.getLogger(__name__)

PREFIX = "transformer."  # classification heads keep the network under this name
SHARED = "shared.weight"
SHARED_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
IGNORED_KEYWORDS = ("low_cpu_mem_usage", "trust_remote_code", "resume_download", "proxies", "mirror", "_fast_init")


@dataclass(frozen=True)
class Request:
    """How weights are to be loaded; see `T5PreTrainedModel.from_pretrained`."""

    dtype: torch.dtype | str | None = None
    device_map: Any = None
    ignore_mismatched_sizes: bool = False
    use_safetensors: bool | None = None
    variant: str | None = None
    quantization: TorchAoConfig | None = None


@dataclass
class Report:
    """What did not go from the checkpoint into the model, and the reverse."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, torch.Size, torch.Size]] = field(default_factory=list)

    def to_dict(self) -> dict[str, list[Any]]:
        """Under the reference's keys."""
        return {
            "missing_keys": self.missing,
            "unexpected_keys": self.unexpected,
            "mismatched_keys": self.mismatched,
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
    config = _config(model_class, source, config, kwargs)
    checkpoint = open_checkpoint(source, use_safetensors=request.use_safetensors, variant=request.variant)
    dtype = _dtype(request.dtype, config, checkpoint)
    with torch.device("meta"):
        model = model_class(config)
    device = placement.single_device(request.device_map)
    report = _fill(model, checkpoint, dtype, device or torch.device("cpu"), request.ignore_mismatched_sizes)
    config.dtype = dtype
    model.generation_config = _generation_config(model, source)
    model.eval()
    if request.quantization is not None:
        request.quantization.apply(model)
    if device is None:
        model = placement.spread(model, request.device_map, **placement_options)
    return model, report


def _config(
    model_class: type[T5PreTrainedModel],
    source: Source,
    config: T5Config | str | os.PathLike[str] | None,
    overrides: dict[str, Any],
) -> T5Config:
    if isinstance(config, T5Config):
        values: dict[str, Any] = config.to_dict()
        overrides = {"attn_implementation": config._attn_implementation, **overrides}
        config_class = type(config)
    else:
        config_class = model_class.config_class
        values = config_class.get_config_dict(source if config is None else Source(config))
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


class _Names:
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
    names, report = _Names(checkpoint), Report()
    for parameter, expected in list(model.named_parameters()):
        stored = names.find(parameter)
        tensor = None if stored is None else checkpoint.tensor(stored)
        if tensor is None:
            report.missing.append(parameter)
        elif tensor.shape != expected.shape:
            report.mismatched.append((parameter, tensor.shape, expected.shape))
        target = _target_dtype(model, parameter, dtype)
        if tensor is None or tensor.shape != expected.shape:
            tensor = torch.empty(expected.shape, dtype=target, device=device)
        _assign(model, parameter, tensor.to(device=device, dtype=target))
    model.tie_weights()
    every_name = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    report.unexpected = names.unused(every_name, model.unused_in_checkpoint)
    _finish(model, report, ignore_mismatched_sizes)
    return report


def _target_dtype(model: T5PreTrainedModel, parameter: str, dtype: torch.dtype) -> torch.dtype:
    """float16 keeps some modules in float32, because their activations leave its range."""
    keeps = dtype == torch.float16 and any(part in model._keep_in_fp32_modules for part in parameter.split("."))
    return torch.float32 if keeps else dtype


def _assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    requires_grad = module._parameters[leaf].requires_grad  # type: ignore[union-attr]
    module._parameters[leaf] = nn.Parameter(tensor, requires_grad=requires_grad)


def _finish(model: T5PreTrainedModel, report: Report, ignore_mismatched_sizes: bool) -> None:
    """Draw what the checkpoint did not give, and say so once."""
    sizes = [f"{name} is {tuple(have)} in the checkpoint, {tuple(want)} here" for name, have, want in report.mismatched]
    if sizes and not ignore_mismatched_sizes:
        raise RuntimeError(
            f"the checkpoint does not fit {type(model).__name__} with this configuration: {'; '.join(sizes)}. "
            "Pass ignore_mismatched_sizes=True to draw these weights anew"
        )
    fresh = report.missing + [name for name, _, _ in report.mismatched]
    if not fresh:
        return
    initialize(model, model.config, set(fresh))
    logger.warning(
        "%s: the checkpoint %s has no weights for %s. They are newly initialised: train the model before you use it.",
        type(model).__name__,
        model.config.name_or_path,
        ", ".join(fresh),
    )


def _generation_config(model: T5PreTrainedModel, source: Source) -> GenerationConfig | None:
    if model.get_output_embeddings() is None:
        return None
    return GenerationConfig.for_model(model.config, source)
