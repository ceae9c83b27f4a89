"""Optimisers: Adafactor, AdamW with scaled steps, torch's AdamW; which parameters they get."""

from __future__ import annotations

from quintet.training.optimizers.adafactor import Adafactor
from quintet.training.optimizers.adamw import ScaledAdamW
from quintet.training.optimizers.base import divides_gradients
from quintet.training.optimizers.grouping import freeze, parameter_groups

__all__ = ["Adafactor", "ScaledAdamW", "divides_gradients", "freeze", "parameter_groups"]
