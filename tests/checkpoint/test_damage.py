"""Bad weight files: each is refused with a message that names it and says what is wrong."""

from __future__ import annotations

import json
import os
import pickle
import re

import pytest
import torch

from quintet.checkpoint import CheckpointError, open_checkpoint, save_tensors
from quintet.hub import Source

from .tiny import assert_same, opened, raw_safetensors, read, some_tensors

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 307867048\n"


def header(**tensors: object) -> bytes:
    return json.dumps(tensors).encode()


def entry(start: int, end: int, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


DAMAGED_SAFETENSORS = {
    "shorter than the length field": b"\1\2\3",
    "header length beyond the file": raw_safetensors(header(a=entry(0, 4)), b"1234", length=1000),
    "absurd header length": raw_safetensors(header(a=entry(0, 4)), b"1234", length=2**63),
    "header not JSON": raw_safetensors(b"{nonsense"),
    "header not text": raw_safetensors(b"\xff\xfe"),
    "truncated data": raw_safetensors(header(a=entry(0, 4)), b"123"),
    "data that nobody owns": raw_safetensors(header(a=entry(0, 4)), b"12345"),
    "overlap": raw_safetensors(header(a=entry(0, 4), b=entry(0, 4)), b"1234"),
    "hole": raw_safetensors(header(a=entry(0, 4), b=entry(8, 12)), b"123412341234"),
    "backward offsets": raw_safetensors(header(a=entry(4, 0)), b"1234"),
    "shape and length disagree": raw_safetensors(header(a=entry(0, 8)), b"12341234"),
    "shape that overflows": raw_safetensors(header(a=entry(0, 4, (2**62, 2**62))), b"1234"),
    "unknown dtype": raw_safetensors(header(a=entry(0, 4, dtype="F33")), b"1234"),
}


@pytest.mark.parametrize("content", DAMAGED_SAFETENSORS.values(), ids=DAMAGED_SAFETENSORS.keys())
def test_damaged_safetensors(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path)) + " is not a whole safetensors file"):
        opened(tmp_path)


def test_every_truncation_of_a_safetensors_file_is_noticed(tmp_path):
    [path] = save_tensors(some_tensors(count=2, rows=1), tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            opened(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older than torch 1.6"])
def test_truncated_pickles(tmp_path, zipped):
    path = tmp_path / "pytorch_model.bin"
    torch.save(some_tensors(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(1, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            opened(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / name} is empty")):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_lfs_pointer(tmp_path, name):
    (tmp_path / name).write_bytes(LFS_POINTER)
    with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull"):
        opened(tmp_path)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("form", ["zip", "older than torch 1.6", "bare pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path, form):
    target = tmp_path / "broken-in"
    content = {"weight": torch.ones(2), "payload": Payload(str(target))}
    path = tmp_path / "pytorch_model.bin"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content["payload"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"refused.*could run code.*Nothing of it was run"):
        opened(tmp_path)
    assert not target.exists()


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {"epoch": 3}, {3: torch.ones(1)}, {"model": {"a": torch.ones(1)}}]
)
def test_pickles_that_are_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is not a state dict"):
        opened(tmp_path)


def sharded(folder):
    *shards, index = save_tensors(some_tensors(), folder, max_shard_size=256)
    return shards, index


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("\udcff", "is not valid JSON"),
        ("[]", "has no `weight_map`"),
        ("{}", "has no `weight_map`"),
        ('{"weight_map": []}', "has no `weight_map`"),
        ('{"weight_map": {}}', "has no `weight_map`"),
        ('{"weight_map": {"a": 3}}', "names the file 3"),
    ],
)
def test_bad_index(tmp_path, content, message):
    _, index = sharded(tmp_path)
    index.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=re.escape(str(index)) + f".*{message}"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "escape",
    [
        *["../stolen.safetensors", "/etc/stolen.safetensors", "a/../../stolen.safetensors", "a/..", "..", ".", ""],
        *["..\\stolen.safetensors", "C:\\stolen.safetensors", "C:stolen.safetensors", "\\\\host\\share\\stolen"],
    ],
)
def test_a_shard_outside_the_folder_is_refused(tmp_path, escape):
    folder = tmp_path / "model"
    save_tensors({"stolen": torch.ones(1)}, folder)
    (folder / "model.safetensors").rename(tmp_path / "stolen.safetensors")
    index = {"weight_map": {"stolen": escape}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="a shard must lie in the checkpoint's folder"):
        opened(folder)


def test_missing_shard(tmp_path):
    [shard, *_], _ = sharded(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} does not hold {shard.name}")):
        read(tmp_path)


def test_shard_without_a_promised_tensor(tmp_path):
    [first, second, *_], _ = sharded(tmp_path)
    first.write_bytes(second.read_bytes())
    message = re.escape(f"{first} lacks tensors that the checkpoint's index places there: layer.0.weight")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


def test_an_index_without_notes_is_enough(tmp_path):
    _, index = sharded(tmp_path)
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
    assert opened(tmp_path).metadata == {}
    assert_same(read(tmp_path), some_tensors())


def test_no_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    wanted = "model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{wanted}. It holds: config.json.")):
        opened(tmp_path)


def test_only_the_other_format(tmp_path):
    save_tensors(some_tensors(), tmp_path, safe_serialization=False)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors\.index\.json\. It holds: pytorch_model\.bin"):
        opened(tmp_path, use_safetensors=True)
    save_tensors(some_tensors(), tmp_path / "safe")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin\.index\.json\. It holds: model\.safetensors"):
        opened(tmp_path / "safe", use_safetensors=False)


def test_subfolder_is_part_of_the_place(tmp_path):
    save_tensors(some_tensors(), tmp_path / "step-100")
    assert len(open_checkpoint(Source(tmp_path, subfolder="step-100"))) == len(some_tensors())
    with pytest.raises(FileNotFoundError, match=r"step-200 does not hold any of .* check `subfolder`"):
        open_checkpoint(Source(tmp_path, subfolder="step-200"))
