"""On which device a model's weights go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def take_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Remove from `kwargs` the options that only matter when a model is spread over devices, and return them."""
    return {name: kwargs.pop(name) for name in ("max_memory", "offload_folder", "offload_buffers") if name in kwargs}


def single_device(device_map: Any) -> torch.device | None:
    """The one device a device map means, or None if it names several or leaves the choice to `accelerate`.

    Raises ValueError for what is neither a device, a strategy, nor a dictionary.
    """
    if device_map is None:
        return torch.get_default_device()
    if isinstance(device_map, dict):
        places = set(map(str, device_map.values()))
        return None if len(places) != 1 or "disk" in places else _device(next(iter(device_map.values())))
    if device_map in STRATEGIES:
        return None if torch.accelerator.is_available() else torch.device("cpu")
    return _device(device_map)


def checked_device(value: Any, option: str, allowed: str) -> torch.device:
    """The device that the value of an option means; ValueError if it means none, or one that is not here."""
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{option} must be {allowed}; got {value!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option} asks for {device}, but no CUDA device is available here")
    return device


def check_complete(model: T5PreTrainedModel, device_map: Any) -> None:
    """ValueError if a dictionary leaves a parameter without a place."""
    if not isinstance(device_map, dict) or "" in device_map:
        return
    homeless = [
        name
        for name, _ in model.named_parameters()
        if not any(name == part or name.startswith(f"{part}.") for part in device_map)
    ]
    if homeless:
        raise ValueError(f"device_map says no place for {', '.join(homeless[:5])}{', ...' if homeless[5:] else ''}")


def _device(value: Any) -> torch.device:
    allowed = f"a device, one of {', '.join(STRATEGIES)}, or a dictionary from modules to devices"
    return checked_device(value, "device_map", allowed)


def spread(model: T5PreTrainedModel, device_map: Any, **options: Any) -> T5PreTrainedModel:
    """Put the parts of a model on several devices, or on disk, by `accelerate`.

    `device_map` is a strategy or a dictionary; options are max_memory, offload_folder and offload_buffers. Raises
    ImportError without `accelerate`.
    """
    try:
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError as error:
        raise ImportError(
            f"device_map={device_map!r} spreads the model over devices, which needs `accelerate`: "
            "pip install 'quintet[accelerate]'"
        ) from error
    max_memory = options.pop("max_memory", None)
    if not isinstance(device_map, dict):
        kept_whole = model._no_split_modules
        if device_map != "sequential":
            max_memory = get_balanced_memory(
                model, max_memory, no_split_module_classes=kept_whole, low_zero=device_map == "balanced_low_0"
            )
        device_map = infer_auto_device_map(model, max_memory, no_split_module_classes=kept_whole)
    offload_folder = options.pop("offload_folder", None)
    dispatch_model(model, device_map, offload_dir=offload_folder, **options)
    return model
