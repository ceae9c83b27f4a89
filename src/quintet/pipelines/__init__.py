"""Pipelines: from text to results in one call."""

from __future__ import annotations

from typing import Any

import torch

from quintet.auto import AutoModelForSeq2SeqLM, AutoTokenizer
from quintet.model.placement import checked_device
from quintet.pipelines.text2text import TASKS, Text2TextGenerationPipeline, is_translation

__all__ = ["TASKS", "Text2TextGenerationPipeline", "pipeline"]


def pipeline(
    task: str = "text2text-generation",
    model: Any = None,
    *,
    tokenizer: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    device: Any = None,
    device_map: Any = None,
    batch_size: int = 1,
    model_kwargs: dict[str, Any] | None = None,
) -> Text2TextGenerationPipeline:
    """A pipeline for a task: "text2text-generation", "summarization", "translation" or "translation_xx_to_yy".

    `model` is a model, or the folder or hub name of one; the tokenizer is found beside it unless it is given. `device`
    is a torch device or the number of a CUDA device, -1 being the CPU. `batch_size` inputs are computed together.
    Raises ValueError for an unknown task, a missing model, or a device that is not there.
    """
    if task not in TASKS and not is_translation(task):
        raise ValueError(f"task {task!r} is not known; it must be one of {', '.join(TASKS)}, translation_xx_to_yy")
    if model is None:
        raise ValueError("pipeline needs a model: an object, a folder, or a name on the hub")
    if device is not None and device_map is not None:
        raise ValueError("give pipeline a device or a device_map, not both")
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        tokenizer = model if tokenizer is None else tokenizer
        place = device_map if device is None else _device(device)
        dtype = dtype if dtype is not None else torch_dtype
        model = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=dtype, device_map=place, **(model_kwargs or {}))
    elif device is not None:
        model = model.to(_device(device))
    if tokenizer is None:
        raise ValueError("pipeline needs a tokenizer when the model is given as an object")
    if isinstance(tokenizer, str) or hasattr(tokenizer, "__fspath__"):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    return Text2TextGenerationPipeline(task, model, tokenizer, batch_size)


def _device(device: Any) -> torch.device:
    """A device, or its number as `transformers` takes it: -1 is the CPU, any other a CUDA device."""
    if isinstance(device, int) or (isinstance(device, str) and device.lstrip("-").isdigit()):
        device = "cpu" if int(device) < 0 else f"cuda:{int(device)}"
    return checked_device(device, "device", "a device (cpu, cuda, cuda:1) or its number, -1 being the CPU")
