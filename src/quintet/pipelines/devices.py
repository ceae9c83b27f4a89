"""Which device a pipeline computes on."""

from __future__ import annotations

from typing import Any

import torch

from quintet.model.placement import checked_device


def device_of(value: Any) -> torch.device:
    """A device, or its number as `transformers` takes it: -1 is the CPU, any other a CUDA device.

    None is the accelerator where there is one, else the CPU. Raises ValueError for a device that is not here.
    """
    if value is None:
        available = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return available or torch.device("cpu")
    if isinstance(value, int) or (isinstance(value, str) and value.lstrip("-").isdigit()):
        value = "cpu" if int(value) < 0 else f"cuda:{int(value)}"
    return checked_device(value, "device", "a device (cpu, cuda, cuda:1) or its number, -1 being the CPU")


def place(model: Any, device: Any) -> Any:
    """The model on its device. One that `accelerate` has spread over devices stays where it is.

    Raises ValueError if such a model is to be moved.
    """
    if getattr(model, "hf_device_map", None) is not None:
        if device is not None:
            raise ValueError("the model is spread over devices by its device_map: give the pipeline no device")
        return model
    wanted = device_of(device)
    return model if _is_on(model.device, wanted) else model.to(wanted)


def _is_on(device: torch.device, wanted: torch.device) -> bool:
    return device.type == wanted.type and wanted.index in (None, device.index)
