"""quintet's own quantization: what is rounded to how many bits, and how a checkpoint says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from quintet.quantize.packing import STORAGE
from quintet.quantize.torchao import TorchAoConfig

METHOD = "quintet"
OUTPUT = "lm_head"
KEPT = (OUTPUT,)
"""Linear layers that keep their floats, beside those with a bias.

`lm_head` is what scores are read from: rounding it alone to 4 bits moves the predictions more than rounding any other
kind of layer does, and it is often the embedding table, which is read a row at a time and has nothing to gain. Layers
with a bias are those of task heads: small, and trained last. `wo` is rounded. Its weights have the widest tails of all,
but only the weights are rounded here, not the activations whose outliers made others keep it; see
benchmarks/RESULTS.md. Under float16 it still computes in float32.
"""
SMALLEST_GROUP = 16


@dataclass(frozen=True)
class QuantizationConfig:
    """Weights of linear layers as integers of 8 or 4 bits; activations, norms and position biases stay as they are.

    `bits` is 8 or 4. Each group of `group_size` inputs of an output (a power of two from 16 on; None: all of them)
    shares one scale. `modules_to_not_convert` names modules that keep their floats. `vocabulary_bits` is 8, for token
    embeddings and `lm_head` with a scale for each row (tied: one table still), whatever modules_to_not_convert says of
    them; or None: embeddings keep their floats, and lm_head is a linear layer like any other. Raises ValueError for
    other values.
    """

    bits: int
    group_size: int | None = None
    modules_to_not_convert: tuple[str, ...] = KEPT
    vocabulary_bits: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in STORAGE:
            raise ValueError(f"bits must be one of {', '.join(map(str, STORAGE))}, got {self.bits!r}")
        size = self.group_size
        if size is not None and (not isinstance(size, int) or size < SMALLEST_GROUP or size & (size - 1)):
            raise ValueError(f"group_size must be None or a power of two from {SMALLEST_GROUP} on, got {size!r}")
        names = self.modules_to_not_convert
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"modules_to_not_convert must be names of modules, got {names!r}")
        if self.vocabulary_bits not in (None, 8):
            raise ValueError(f"vocabulary_bits must be 8 or None, got {self.vocabulary_bits!r}")
        object.__setattr__(self, "modules_to_not_convert", tuple(names))

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds under "quantization_config"."""
        values = {
            "quant_method": METHOD,
            "bits": self.bits,
            "group_size": self.group_size,
            "modules_to_not_convert": list(self.modules_to_not_convert),
        }
        return values if self.vocabulary_bits is None else {**values, "vocabulary_bits": self.vocabulary_bits}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizationConfig:
        """From `to_dict`; ValueError for another library's quantization, and for unknown values."""
        method = values.get("quant_method")
        if method != METHOD:
            raise ValueError(
                f"the weights are quantized by {method!r}, which quintet does not read: load the unquantized "
                'checkpoint, with quantization_config="int8" or "int4"'
            )
        known = {"quant_method", *(field.name for field in fields(cls))}
        unknown = values.keys() - known
        if unknown or "bits" not in values:
            raise ValueError(f"quantization_config lacks bits, or has unknown entries: {dict(values)}")
        return cls(**{name: value for name, value in values.items() if name != "quant_method"})


PRESETS = {"int8": QuantizationConfig(8), "int4": QuantizationConfig(4, group_size=32)}
"""The strings that `from_pretrained` takes."""

Quantization = QuantizationConfig | TorchAoConfig


def as_quantization(value: Quantization | Mapping[str, Any] | str | None) -> Quantization | None:
    """The quantization that an argument or an entry of config.json means; ValueError if it means none."""
    if value is None or isinstance(value, (QuantizationConfig, TorchAoConfig)):
        return value
    if isinstance(value, Mapping):
        return QuantizationConfig.from_dict(value)
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    raise ValueError(
        f"quantization_config must be {' or '.join(map(repr, PRESETS))}, a QuantizationConfig or a TorchAoConfig; "
        f"got {value!r}"
    )
