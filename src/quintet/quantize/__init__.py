"""Quantization: weights as small integers. quintet's own (`config.py`), and torchao's for those who have it."""

from quintet.quantize.config import Quantization, QuantizationConfig, as_quantization
from quintet.quantize.layers import (
    VOCABULARY,
    QuantizedEmbedding,
    QuantizedLayer,
    QuantizedLinear,
    linears_to_quantize,
    replace_linears,
)
from quintet.quantize.torchao import TorchAoConfig

__all__ = [
    "VOCABULARY",
    "Quantization",
    "QuantizationConfig",
    "QuantizedEmbedding",
    "QuantizedLayer",
    "QuantizedLinear",
    "TorchAoConfig",
    "as_quantization",
    "linears_to_quantize",
    "replace_linears",
]
