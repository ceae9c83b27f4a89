"""What a figure was measured on."""

from __future__ import annotations

import os
import platform

import torch


def describe() -> str:
    """One line: processor, cores in use, library versions."""
    return (
        f"{_processor()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
