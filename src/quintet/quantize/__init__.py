"""Quantization: transforms of finished models."""

from quintet.quantize.torchao import TorchAoConfig

__all__ = ["TorchAoConfig"]
