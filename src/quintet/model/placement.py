"""On which device a model's weights go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
DISK = "disk"


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
        devices = {_device(place) for place in device_map.values() if place != DISK}
        return devices.pop() if len(devices) == 1 and DISK not in device_map.values() else None
    if device_map in STRATEGIES:
        return None if torch.accelerator.is_available() else torch.device("cpu")
    return _device(device_map)


def checked_device(value: Any, option: str, allowed: str) -> torch.device:
    """The device that the value of an option means; ValueError if it means none, or one that is not here."""
    if isinstance(value, int) and not torch.accelerator.is_available():
        raise ValueError(f"{option} asks for accelerator {value}, but none is available here")
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{option} must be {allowed}; got {value!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option} asks for {device}, but no CUDA device is available here")
    return device


def check_complete(model: T5PreTrainedModel, device_map: Any) -> None:
    """ValueError if a dictionary leaves a parameter without a place, or puts on disk what must stay together."""
    if not isinstance(device_map, dict):
        return
    places = {name: _place(name, device_map) for name, _ in model.named_parameters(remove_duplicate=False)}
    homeless = [name for name, place in places.items() if place is None]
    if homeless:
        raise ValueError(f"device_map says no place for {', '.join(homeless[:5])}{', ...' if homeless[5:] else ''}")
    for alias, name in model.tied_names().items():
        if (places[alias] == DISK) != (places[name] == DISK):
            raise ValueError(f"{alias} and {name} are one weight: device_map must put both on disk, or neither")
    for name, place in places.items():
        if place != DISK and any(_covers(part, name) and device_map[part] == DISK for part in device_map):
            raise ValueError(
                f"device_map puts {name} elsewhere than a part on disk that holds it: list the parts singly"
            )


def _place(name: str, device_map: dict[str, Any]) -> Any:
    """Where the longest entry that covers a parameter puts it, or None."""
    covering = [part for part in device_map if _covers(part, name)]
    return device_map[max(covering, key=len)] if covering else None


def _covers(part: str, name: str) -> bool:
    return part in ("", name) or name.startswith(f"{part}.")


def _device(value: Any) -> torch.device:
    allowed = f"a device, one of {', '.join(STRATEGIES)}, or a dictionary from modules to devices"
    return checked_device(value, "device_map", allowed)


def spread(
    model: T5PreTrainedModel,
    device_map: Any,
    max_memory: dict[int | str, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    offload_buffers: bool = False,
) -> T5PreTrainedModel:
    """Put the parts of a model on several devices, or on disk, by `accelerate`.

    `device_map` is a strategy or a dictionary; what it puts on disk is written to `offload_folder`. Raises ImportError
    without `accelerate`, ValueError without a folder to write to.
    """
    try:
        import accelerate
    except ImportError as error:
        raise ImportError(
            f"device_map={device_map!r} spreads the model over devices, which needs `accelerate`: "
            "pip install 'quintet[accelerate]'"
        ) from error
    _separate_embeddings(model)
    if not isinstance(device_map, dict):
        device_map = _chosen_by_strategy(model, device_map, max_memory)
    if DISK in device_map.values():
        _write_to_disk(model, device_map, offload_folder)
    return accelerate.dispatch_model(
        model, device_map, offload_dir=offload_folder, offload_buffers=offload_buffers, skip_keys="past_key_values"
    )


def _separate_embeddings(model: T5PreTrainedModel) -> None:
    """Give each stack an embedding of its own around the shared weight: `accelerate` keeps a module in one place."""
    for stack in model.stacks:
        shared = stack.embed_tokens
        with torch.device("meta"):
            stack.embed_tokens = type(shared)(shared.num_embeddings, shared.embedding_dim)
        for name, parameter in shared.named_parameters():
            setattr(stack.embed_tokens, name, parameter)


def _chosen_by_strategy(model: T5PreTrainedModel, strategy: str, max_memory: Any) -> dict[str, Any]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    kept_whole = model._no_split_modules
    if strategy != "sequential":
        max_memory = get_balanced_memory(
            model, max_memory, no_split_module_classes=kept_whole, low_zero=strategy == "balanced_low_0"
        )
    return infer_auto_device_map(model, max_memory, no_split_module_classes=kept_whole)


def _write_to_disk(model: T5PreTrainedModel, device_map: dict[str, Any], folder: str | os.PathLike[str] | None) -> None:
    """Write the weights that are to be on disk. `accelerate` itself would take what another model left there."""
    from accelerate.utils import offload_state_dict

    if folder is None:
        parts = ", ".join(repr(part) for part, place in device_map.items() if place == DISK)
        raise ValueError(f"device_map puts {parts} on disk, which needs an offload_folder")
    state = model.state_dict()
    offload_state_dict(folder, {name: state[name] for name in state if _place(name, device_map) == DISK})
