"""Low-rank adapters (LoRA, Hu et al. 2021) through `peft`: small matrices beside frozen weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from quintet.model.heads import T5ForConditionalGeneration
from quintet.training.config import ModelConfig

BASE = ".base_layer"  # what peft puts behind the name of a layer that has got an adapter


def add_adapters(model: T5ForConditionalGeneration, config: ModelConfig) -> Any:
    """Put adapters into the model's layers and freeze the rest; returns peft's model, which saves and loads them.

    Raises ValueError for layers that are not there, ImportError without peft.
    """
    peft = _peft()
    alpha = 2 * config.lora_rank if config.lora_alpha is None else config.lora_alpha  # type: ignore[operator]
    options = peft.LoraConfig(r=config.lora_rank, lora_alpha=alpha, target_modules=list(config.lora_target_modules))
    return peft.get_peft_model(model, options)


def merged_weights(model: T5ForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The weights of a model with adapters as one without: each adapter's product added to its layer."""
    layers = dict(model.named_modules())
    found = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        layer, base, _ = name.partition(BASE)
        delta = layers[layer].get_delta_weight("default") if base else 0
        found[name.replace(BASE, "")] = (tensor + delta).to(tensor.dtype) if base else tensor
    return found


def load_adapters(adapted: Any, folder: Path) -> None:
    """Read saved adapters back into a model that has such. Raises ValueError if they are other ones."""
    peft = _peft()
    own = peft.get_peft_model_state_dict(adapted)
    saved = peft.load_peft_weights(str(folder), device="cpu")
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in saved.items()}:
        raise ValueError(f"{folder} holds the adapters of another model")
    peft.set_peft_model_state_dict(adapted, saved)


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError('lora_rank needs peft: pip install "quintet[lora]"') from error
