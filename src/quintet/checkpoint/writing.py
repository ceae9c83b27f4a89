"""Writing named tensors as a checkpoint."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.torch import save_file

from quintet.checkpoint.safetensors_file import SafetensorsFile
from quintet.files import staged
from quintet.files.names import Layout


def save_tensors(
    tensors: Mapping[str, torch.Tensor],
    folder: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
    safe_serialization: bool = True,
    variant: str | None = None,
) -> list[Path]:
    """Write `tensors` into `folder` as the reference lays a checkpoint out; returns the files written.

    All or nothing (see `staged`): a failed or interrupted save leaves the former checkpoint whole, a finished one
    replaces it. Shards hold at most `max_shard_size` bytes (an int, or a string such as "200MB"), but at least one
    tensor. `metadata` is added to the header of safetensors files. `safe_serialization=False` writes pickles.
    Raises ValueError for tensors that overlap in memory or have no data, and for a bad size; OSError if the disk is
    full or the folder cannot be written.
    """
    _check(tensors)
    layout = Layout(pickled=not safe_serialization, variant=variant)
    split = _split(tensors, layout, max_shard_size)
    with staged(folder) as staging:
        for filename, names in split.filename_to_tensors.items():
            shard = {name: tensors[name].contiguous() for name in names}
            if safe_serialization:
                _write_safetensors(shard, staging / filename, {"format": "pt", **(metadata or {})})
            else:
                _write_pickle(shard, staging / filename)
        written = list(split.filename_to_tensors)
        if split.is_sharded:
            (staging / layout.index).write_text(_index(tensors.values(), split.tensor_to_filename), encoding="utf-8")
            written.append(layout.index)
    return [Path(folder, filename) for filename in written]


def join_checkpoints(parts: Iterable[Path], folder: str | os.PathLike[str], expected: Collection[str]) -> None:
    """Make one checkpoint of several, each of other tensors: their safetensors files move into `folder` as its shards.

    A single file becomes model.safetensors. All or nothing for `folder` (see `staged`), which must be on the parts'
    disk; after a failure parts may be gone. Raises OSError if together the parts do not hold each of the `expected`
    tensors once, or if `folder` cannot be written.
    """
    layout = Layout()
    files = [SafetensorsFile(path) for part in parts for path in sorted(part.glob(layout.pattern.format(suffix="*")))]
    _check_complete(files, expected)
    names = [layout.single]
    if len(files) > 1:
        names = [layout.pattern.format(suffix=f"-{number:05}-of-{len(files):05}") for number, _ in enumerate(files, 1)]
    with staged(folder) as staging:
        for file, name in zip(files, names, strict=True):
            os.replace(file.path, staging / name)
        if len(files) > 1:
            places = {tensor: name for file, name in zip(files, names, strict=True) for tensor in file.names}
            tensors = [file.tensor(tensor) for file in files for tensor in file.names]
            (staging / layout.index).write_text(_index(tensors, places), encoding="utf-8")


def _check_complete(files: Collection[SafetensorsFile], expected: Collection[str]) -> None:
    found, wanted = Counter(name for file in files for name in file.names), Counter(list(expected))
    wrong = sorted((found - wanted) + (wanted - found))
    if wrong or not files:
        raise OSError(
            f"The parts of the checkpoint lack tensors or hold them twice: {', '.join(wrong[:5]) or 'all'}. All "
            "processes must write to the same disk."
        )


def check_shard_size(max_shard_size: int | str) -> None:
    """Raise ValueError for a size that `save_tensors` does not take."""
    _split({}, Layout(), max_shard_size)


def _check(tensors: Mapping[str, torch.Tensor]) -> None:
    if not tensors:
        raise ValueError("There are no tensors to save.")
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.layout != torch.strided:
            raise ValueError(
                f"Cannot save {name!r}: it must be a dense tensor with data, and is {tensor.layout} on {tensor.device}."
            )
        if hasattr(tensor, "__tensor_flatten__"):  # a wrapper of other tensors, whose memory is not its own
            raise ValueError(
                f"Cannot save {name!r}: it is a {type(tensor).__name__} of another library. Save the model without its "
                'quantization; weights that quintet rounds itself (quantization_config="int8") are saved.'
            )
    spans = sorted((str(tensor.device), *_span(tensor), name) for name, tensor in tensors.items() if tensor.numel())
    for (device, _, end, name), (other_device, start, _, other_name) in pairwise(spans):
        if device == other_device and start < end:
            raise ValueError(
                f"{name!r} and {other_name!r} share memory, which a file cannot keep: save it under one name, or clone."
            )


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first byte and of the one after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.itemsize


def _split(tensors: Mapping[str, torch.Tensor], layout: Layout, max_shard_size: int | str) -> StateDictSplit:
    if isinstance(max_shard_size, int) and max_shard_size <= 0:
        raise ValueError(f"max_shard_size must be positive, and is {max_shard_size}.")
    try:
        return split_state_dict_into_shards_factory(
            dict(tensors),
            get_storage_size=lambda tensor: tensor.nbytes,
            filename_pattern=layout.pattern,
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise ValueError(f"max_shard_size {max_shard_size!r} is no size: {error}") from error


def _index(tensors: Collection[torch.Tensor], places: Mapping[str, str]) -> str:
    notes = {
        "total_parameters": sum(tensor.numel() for tensor in tensors),
        "total_size": sum(tensor.nbytes for tensor in tensors),
    }
    return json.dumps({"metadata": notes, "weight_map": places}, indent=2, sort_keys=True) + "\n"


def _write_safetensors(shard: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    path.touch()
    mode = path.stat().st_mode  # what the umask allows; safetensors replaces the file by one only its owner may read
    try:
        save_file(shard, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"Cannot write {path.name}: {error}") from error
    path.chmod(mode)


def _write_pickle(shard: dict[str, torch.Tensor], path: Path) -> None:
    # A pickle stores whole storages: a view of a larger one is cut out first.
    compact = {name: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for name, t in shard.items()}
    try:
        torch.save(compact, path)
    except RuntimeError as error:  # what torch makes of a failed write, the system's reason lost
        raise OSError(f"Cannot write {path.name}; is the disk full? ({error})") from error
