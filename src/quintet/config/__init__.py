"""Configurations of the T5 family. Needs no torch."""

from quintet.config.t5 import CONFIG_CLASSES, MT5Config, T5Config, UMT5Config

__all__ = ["CONFIG_CLASSES", "MT5Config", "T5Config", "UMT5Config"]
