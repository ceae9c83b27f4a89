"""Writing named tensors as a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file

from quintet.checkpoint.names import layouts
from quintet.checkpoint.staging import staged


def save_tensors(
    tensors: Mapping[str, torch.Tensor],
    folder: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
    safe_serialization: bool = True,
    variant: str | None = None,
) -> list[Path]:
    """Write `tensors` into `folder`."""
    [layout] = layouts(variant, use_safetensors=safe_serialization)
    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern=layout.pattern,
        max_shard_size=max_shard_size,
    )
    with staged(folder) as staging:
        for filename, names in split.filename_to_tensors.items():
            shard = {name: tensors[name].contiguous() for name in names}
            if safe_serialization:
                save_file(shard, staging / filename, metadata={"format": "pt", **(metadata or {})})
            else:
                torch.save(shard, staging / filename)
        if split.is_sharded:
            total = sum(tensor.numel() for tensor in tensors.values())
            index = {
                "metadata": {"total_parameters": total, **split.metadata},
                "weight_map": split.tensor_to_filename,
            }
            (staging / layout.index).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [Path(folder, filename) for filename in split.filename_to_tensors]
