"""Reading: which files are taken, what is opened, what a tensor of it may be used for."""

from __future__ import annotations

import json
import struct
import sys
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from quintet.checkpoint import save_tensors

from .tiny import assert_same, opened, raw_safetensors, read, some_tensors

SHARDED = {"max_shard_size": 256}  # two of `some_tensors` in each
PICKLED = {"safe_serialization": False}


@pytest.mark.parametrize("options", [{}, SHARDED, PICKLED, {**PICKLED, **SHARDED}], ids=str)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_what_is_saved_is_read(tmp_path, options, variant):
    tensors = some_tensors()
    save_tensors(tensors, tmp_path, variant=variant, **options)
    assert_same(read(tmp_path, variant=variant), tensors)
    if variant:
        with pytest.raises(FileNotFoundError, match=r"any of model\.safetensors"):
            opened(tmp_path)


@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "float8_e4m3fn",
        "float8_e5m2",
    ],
)
@pytest.mark.parametrize("options", [{}, PICKLED], ids=["safetensors", "bin"])
def test_dtypes_and_shapes_survive(tmp_path, dtype, options):
    values = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]).to(getattr(torch, dtype))
    tensors = {"matrix": values, "scalar": values[1, 2].clone(), "empty": values[:0].clone()}
    save_tensors(tensors, tmp_path, **options)
    checkpoint = opened(tmp_path)
    for name, tensor in tensors.items():
        assert checkpoint.shape(name) == tensor.shape
        assert checkpoint.dtype(name) == getattr(torch, dtype)
        assert torch.equal(checkpoint.tensor(name).float(), tensor.float())


def test_the_preferred_file_is_read_first(tmp_path):
    """The reference's order: model.safetensors, its shards, pytorch_model.bin, its shards."""
    single, shards, pickled, pickled_shards = (some_tensors(seed) for seed in range(4))
    save_tensors(pickled_shards, tmp_path / "d", **PICKLED, **SHARDED)
    save_tensors(pickled, tmp_path / "c", **PICKLED)
    save_tensors(shards, tmp_path / "b", **SHARDED)
    save_tensors(single, tmp_path / "a")
    both = tmp_path / "all"
    both.mkdir()
    for folder, expected in (("d", pickled_shards), ("c", pickled), ("b", shards), ("a", single)):
        for path in (tmp_path / folder).iterdir():
            path.rename(both / path.name)
        assert_same(read(both), expected)
    assert_same(read(both, use_safetensors=True), single)
    assert_same(read(both, use_safetensors=False), pickled)


def test_surface(tmp_path):
    tensors = some_tensors()
    [path] = save_tensors(tensors, tmp_path, metadata={"made by": "a test"})
    checkpoint = opened(tmp_path)
    assert checkpoint.names == list(checkpoint) == sorted(tensors)
    assert len(checkpoint) == len(tensors)
    assert "layer.0.weight" in checkpoint
    assert "layer.9.weight" not in checkpoint
    assert checkpoint.files == [path]
    assert checkpoint.metadata == {"format": "pt", "made by": "a test"}
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    with pytest.raises(KeyError, match=r"layer\.9\.weight"):
        checkpoint.tensor("layer.9.weight")


def test_only_the_shards_in_use_are_opened(tmp_path):
    tensors = some_tensors()
    *shards, index = save_tensors(tensors, tmp_path, **SHARDED)
    holder = json.loads(index.read_text())["weight_map"]["layer.3.weight"]
    for shard in shards:
        if shard.name != holder:
            shard.unlink()
    checkpoint = opened(tmp_path)
    assert checkpoint.files == []
    assert "layer.5.weight" in checkpoint  # known from the index alone
    assert torch.equal(checkpoint.tensor("layer.3.weight"), tensors["layer.3.weight"])
    assert checkpoint.files == [tmp_path / holder]
    (tmp_path / holder).unlink()
    assert torch.equal(checkpoint.tensor("layer.2.weight"), tensors["layer.2.weight"]), "each is opened once"


def test_shards_may_lie_below_the_folder_and_be_links(tmp_path):
    """A hub cache is made of links; some repositories keep their shards in a subfolder."""
    tensors = some_tensors()
    *_, index = save_tensors(tensors, tmp_path / "blobs", **SHARDED)
    content = json.loads(index.read_text())
    content["weight_map"] = {name: f"weights/{file}" for name, file in content["weight_map"].items()}
    weights = tmp_path / "snapshot" / "weights"
    weights.mkdir(parents=True)
    (tmp_path / "snapshot" / index.name).write_text(json.dumps(content))
    for blob in (tmp_path / "blobs").glob("*.safetensors"):
        (weights / blob.name).symlink_to(blob)
    assert_same(read(tmp_path / "snapshot"), tensors)


@pytest.mark.parametrize("options", [{}, PICKLED], ids=["safetensors", "bin"])
def test_writing_to_a_tensor_leaves_the_file(tmp_path, options):
    [path] = save_tensors(some_tensors(), tmp_path, **options)
    before = path.read_bytes()
    for tensor in read(tmp_path).values():
        tensor.zero_()
    assert path.read_bytes() == before
    assert_same(read(tmp_path), some_tensors())


@pytest.mark.parametrize("options", [{}, PICKLED], ids=["safetensors", "bin"])
def test_tensors_outlive_the_checkpoint_and_the_file(tmp_path, options):
    [path] = save_tensors(some_tensors(), tmp_path, **options)
    tensors = read(tmp_path)
    path.unlink()
    assert_same(tensors, some_tensors())


def test_saving_over_the_files_in_use(tmp_path):
    """The tensors given may be views of the very file that is replaced."""
    save_tensors(some_tensors(), tmp_path)
    tensors = read(tmp_path)
    tensors["layer.0.weight"] = torch.ones(3)
    save_tensors(tensors, tmp_path)
    assert_same(read(tmp_path), {**some_tensors(), "layer.0.weight": torch.ones(3)})


def test_unaligned_tensors(tmp_path):
    header = json.dumps(
        {
            "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "floats": {"dtype": "F32", "shape": [3], "data_offsets": [1, 13]},
        }
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(raw_safetensors(header, b"\7" + struct.pack("<fff", 1, 2, 3)))
    floats = opened(tmp_path).tensor("floats")
    assert floats.data_ptr() % 4 != 0, "the test is to read an unaligned tensor"
    floats += 1
    assert floats.tolist() == [2.0, 3.0, 4.0]
    assert torch.nn.functional.linear(floats, torch.eye(3)).tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older than torch 1.6"])
def test_pickles_keep_shared_storages(tmp_path, zipped):
    table = torch.arange(6.0)
    torch.save(
        {"shared": table, "tied": table, "view": table[2:4]},
        tmp_path / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    tensors = read(tmp_path)
    tensors["shared"].fill_(7)
    assert tensors["tied"].tolist() == [7.0] * 6
    assert tensors["view"].tolist() == [7.0, 7.0]


def test_pickled_parameters_are_plain_tensors(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(keep_vars=True), tmp_path / "pytorch_model.bin")
    for tensor in read(tmp_path).values():
        assert type(tensor) is torch.Tensor
        assert not tensor.requires_grad


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system what it has mapped")
@pytest.mark.parametrize("options", [{}, PICKLED], ids=["safetensors", "bin"])
def test_tensors_are_the_mapped_file(tmp_path, options):
    """No byte is copied: each tensor lies in the mapping, whose pages arrive when they are touched."""
    count, size = 16, 2**22
    [path] = save_tensors({f"{i}": torch.ones(2**20) for i in range(count)}, tmp_path, **options)

    def mappings() -> list[Any]:
        return [part for part in psutil.Process().memory_maps(grouped=False) if part.path == str(path)]

    tensors = read(tmp_path)
    assert sum(part.rss for part in mappings()) < count * size / 2
    assert sum(tensor.sum().item() for tensor in tensors.values()) == count * 2**20
    assert count * size <= sum(part.rss for part in mappings()) < count * size + 2**20
    spans = [[int(address, 16) for address in part.addr.split("-")] for part in mappings()]
    for tensor in tensors.values():
        assert any(start <= tensor.data_ptr() and tensor.data_ptr() + size <= end for start, end in spans)


def test_weights_of_another_framework_are_refused(tmp_path):
    save_file({"kernel": torch.ones(2, 2)}, tmp_path / "model.safetensors", metadata={"format": "flax"})
    with pytest.raises(OSError, match="holds flax weights"):
        opened(tmp_path)
