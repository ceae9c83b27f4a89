"""Weight files read as named tensors, and named tensors written as weight files.

This room knows file formats: no model, no configuration. A further format is a class with the surface of `TensorFile`
and a line in `reading.py` that opens it.
"""

from quintet.checkpoint.errors import CheckpointError
from quintet.checkpoint.fp8 import Fp8Checkpoint
from quintet.checkpoint.header import TensorHeader
from quintet.checkpoint.reading import Checkpoint, TensorFile, open_checkpoint
from quintet.checkpoint.writing import join_checkpoints, save_tensors

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Fp8Checkpoint",
    "TensorFile",
    "TensorHeader",
    "join_checkpoints",
    "open_checkpoint",
    "save_tensors",
]
