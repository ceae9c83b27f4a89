"""What a checkpoint is, told from its configuration and the headers of its files: no weight is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quintet.checkpoint import Checkpoint, Fp8Checkpoint, open_checkpoint
from quintet.hub import Source
from quintet.model.loading import PREFIX, Names, Report, empty_model, generation_config, target_dtype
from quintet.quantize import QuantizationConfig

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel

PARTS = {"shared": "embeddings", "encoder": "encoder", "decoder": "decoder"}
"""The parts of a network by the first part of their parameters' names; any other is the head's."""


@dataclass(frozen=True)
class Inspection:
    """The model that loading would make, on the meta device; the files; and what would not go from one to the other."""

    model: T5PreTrainedModel
    stored: Checkpoint
    report: Report


def inspect(model_class: type[T5PreTrainedModel], name_or_path: str | os.PathLike[str]) -> Inspection:
    """Compare a checkpoint's headers with what a class needs of it.

    Raises as `from_pretrained` for files that are missing or damaged and for wrong configurations; weights that are
    missing or do not fit are in the report.
    """
    source = Source(name_or_path)
    config = model_class.config_class.from_pretrained(name_or_path)
    stored = open_checkpoint(source)
    rounded = getattr(config, "quantization_config", None)
    model = empty_model(model_class, config, rounded and QuantizationConfig.from_dict(rounded))
    model.generation_config = generation_config(model, source)
    return Inspection(model, stored, _compare(model, Fp8Checkpoint(stored)))


def parameters_by_part(model: T5PreTrainedModel) -> dict[str, int]:
    """How many numbers embeddings, encoder, decoder and head hold; a tied output layer counts with the embeddings."""
    counts = dict.fromkeys((*PARTS.values(), "head"), 0)
    for name, parameter in model.named_parameters():
        first = name.removeprefix(PREFIX).split(".")[0]
        counts[PARTS.get(first, "head")] += parameter.numel()
    return counts


def bytes_in(model: T5PreTrainedModel, dtype: torch.dtype) -> int:
    """The memory that the weights of a model take once it is loaded in a dtype."""
    total = 0
    for name, parameter in model.named_parameters():
        held = target_dtype(model, name, dtype) if parameter.is_floating_point() else parameter.dtype
        total += parameter.numel() * held.itemsize
    return total


def _compare(model: T5PreTrainedModel, checkpoint: Checkpoint) -> Report:
    names, report = Names(checkpoint), Report()
    for name, expected in model.named_parameters():
        stored = names.find(name)
        if stored is None:
            report.missing.append(name)
        elif (shape := checkpoint.shape(stored)) != expected.shape:
            report.mismatched[name] = (shape, expected.shape)
    every_name = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    report.unexpected = names.unused(every_name, model.unused_in_checkpoint)
    return report
