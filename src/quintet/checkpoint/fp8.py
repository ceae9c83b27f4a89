"""Weights of 8-bit floats, as image generators ship T5 encoders: turned into float32 as they are read.

A scaled weight has a companion, `scale_weight` (ComfyUI) or `weight_scale`, that it is to be multiplied by: one number,
or one for each output.
"""

from __future__ import annotations

import torch

from quintet.checkpoint.errors import CheckpointError
from quintet.checkpoint.reading import Checkpoint

DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALES = ("scale_weight", "weight_scale")
NOT_FOR_WEIGHTS = ("scale_input", "input_scale", "comfy_quant")
"""Companions for those who compute in 8 bits: how to scale a layer's input, and a description of the format."""
MARKER = "scaled_fp8"
"""An empty tensor by which a file of scaled weights says what it is."""


class Fp8Checkpoint(Checkpoint):
    """A checkpoint with every 8-bit float weight multiplied out to float32, and without the scales among its names.

    Anything else is as in the checkpoint it is made from.
    """

    def __init__(self, stored: Checkpoint) -> None:
        self._stored = stored
        self._scales = dict(found for name in stored if (found := _scaled_by(name, stored)))
        hidden = {MARKER, *self._scales.values()}
        hidden |= {weight.removesuffix("weight") + other for weight in self._scales for other in NOT_FOR_WEIGHTS}
        location = {name: file for name, file in stored._location.items() if name not in hidden}
        super().__init__(location, stored._open_shard, stored.metadata)
        self._opened = stored._opened

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that name; float32 in memory of its own if it is stored in 8-bit floats.

        CheckpointError if its scale fits neither the tensor nor its outputs; else raises as `Checkpoint.tensor`.
        """
        tensor = self._stored.tensor(name)
        if tensor.dtype not in DTYPES:
            return tensor
        tensor = tensor.float()
        if name not in self._scales:
            return tensor
        scale = self._stored.tensor(self._scales[name]).float()
        if scale.numel() not in (1, tensor.shape[0]):
            raise CheckpointError(
                f"the scale {self._scales[name]!r} has the shape {tuple(scale.shape)}: it must be one number, or one "
                f"for each of the {tensor.shape[0]} outputs of {name!r}"
            )
        return tensor.mul_(scale.view(-1, *[1] * (tensor.dim() - 1)))


def _scaled_by(name: str, checkpoint: Checkpoint) -> tuple[str, str] | None:
    """The weight that a tensor is the scale of, with that tensor's name; None if it is no such scale."""
    for suffix in SCALES:
        weight = f"{name.removesuffix(suffix)}weight"
        if name.endswith(f".{suffix}") and weight in checkpoint and checkpoint.dtype(weight) in DTYPES:
            return weight, name
    return None
