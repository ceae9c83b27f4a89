"""Quantization by PyTorch's own library, torchao (an extra)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

KEPT = ("lm_head",)
"""Left alone unless told otherwise, as in the reference: the output layer is the one most sensitive to rounding."""


@dataclass(init=False)
class TorchAoConfig:
    """Which quantization torchao shall apply, as `transformers.TorchAoConfig` takes it.

    quant_type is "int4_weight_only" or "int8_weight_only" (keywords: group_size), or a configuration object of torchao.
    modules_to_not_convert names modules that stay as they are, instead of `lm_head`.
    """

    quant_type: Any
    modules_to_not_convert: list[str] = field(default_factory=lambda: list(KEPT))
    quant_type_kwargs: dict[str, Any] = field(default_factory=dict)

    def __init__(self, quant_type: Any, modules_to_not_convert: list[str] | None = None, **kwargs: Any) -> None:
        if isinstance(quant_type, str) and quant_type not in BUILDERS:
            raise ValueError(f"quant_type {quant_type!r} is not known; it must be one of {', '.join(BUILDERS)}")
        self.quant_type = quant_type
        self.modules_to_not_convert = list(KEPT) if modules_to_not_convert is None else modules_to_not_convert
        self.quant_type_kwargs = kwargs

    def apply(self, model: nn.Module) -> None:
        """Quantize the model's linear layers in place. Raises ImportError without torchao."""
        torchao = _torchao()
        device = next(model.parameters()).device
        recipe = self.quant_type
        if isinstance(recipe, str):
            recipe = BUILDERS[recipe](torchao, device, **self.quant_type_kwargs)
        torchao.quantize_(model, recipe, filter_fn=self._is_converted)

    def _is_converted(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and not any(
            part in self.modules_to_not_convert for part in name.split(".")
        )


def _torchao() -> Any:
    try:
        import torchao.quantization
    except ImportError as error:
        raise ImportError("TorchAoConfig needs torchao: pip install 'quintet[torchao]'") from error
    return torchao.quantization


def _int4(torchao: Any, device: torch.device, group_size: int = 128) -> Any:
    if device.type != "cpu":
        return torchao.Int4WeightOnlyConfig(group_size=group_size)
    # torchao packs 4-bit weights for accelerators only. On a CPU the same values take a byte each.
    return torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=_per_group(group_size))  # type: ignore[attr-defined]


def _int8(torchao: Any, device: torch.device, group_size: int | None = None) -> Any:
    return torchao.Int8WeightOnlyConfig(**({} if group_size is None else {"granularity": _per_group(group_size)}))


def _per_group(size: int) -> Any:
    from torchao.quantization.granularity import PerGroup

    return PerGroup(size)


BUILDERS = {"int4_weight_only": _int4, "int8_weight_only": _int8}
