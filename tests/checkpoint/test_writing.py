"""Writing: what the files are called and contain, what is refused, what a failure leaves behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import quintet.checkpoint.writing as writing
from quintet.checkpoint import join_checkpoints, save_tensors

from .tiny import assert_same, read, snapshot, some_tensors

INDEX = "model.safetensors.index.json"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_file_while_it_fits(tmp_path):
    assert save_tensors(some_tensors(), tmp_path / "new" / "folder") == [tmp_path / "new/folder/model.safetensors"]
    with safe_open(tmp_path / "new/folder/model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("size", [256, "256", "0.256KB"])
def test_shards(tmp_path, size):
    if size == "256":
        with pytest.raises(ValueError, match="Supported units are TB, GB, MB, KB"):
            save_tensors(some_tensors(), tmp_path, max_shard_size=size)
        assert names(tmp_path) == []
        return
    written = save_tensors(some_tensors(), tmp_path, max_shard_size=size)
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert [path.name for path in written] == [*shards, "model.safetensors.index.json"]
    index = json.loads(written[-1].read_text())
    assert index["metadata"] == {"total_parameters": 6 * 8 * 4, "total_size": 6 * 8 * 4 * 4}
    assert list(index["weight_map"].values()) == [shard for shard in shards for _ in range(2)]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_become_shards(tmp_path, parts):
    """As if one had written them all: a single file, or shards with an index that names them."""
    tensors = some_tensors()
    folders = [tmp_path / str(number) for number in range(parts)]
    for number, folder in enumerate(folders):
        save_tensors(dict(list(tensors.items())[number::parts]), folder)
    join_checkpoints([*folders, tmp_path / "of a process that had none"], tmp_path / "joined", tensors)
    assert_same(read(tmp_path / "joined"), tensors)
    save_tensors(tensors, tmp_path / "whole", max_shard_size=16 * 8 * len(tensors) // parts)
    assert names(tmp_path / "joined") == names(tmp_path / "whole")
    if parts > 1:
        indexes = [json.loads((tmp_path / one / INDEX).read_text()) for one in ("joined", "whole")]
        assert indexes[0]["metadata"] == indexes[1]["metadata"]
        assert indexes[0]["weight_map"]["layer.1.weight"] == f"model-00002-of-0000{parts}.safetensors"


def test_parts_of_several_shards(tmp_path):
    tensors = some_tensors()
    save_tensors(dict(list(tensors.items())[:4]), tmp_path / "0", max_shard_size=256)
    save_tensors(dict(list(tensors.items())[4:]), tmp_path / "1")
    join_checkpoints([tmp_path / "0", tmp_path / "1"], tmp_path / "joined", tensors.keys())
    assert_same(read(tmp_path / "joined"), tensors)
    assert names(tmp_path / "joined") == sorted([INDEX, *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))])


def test_parts_that_do_not_make_a_whole(tmp_path):
    """As on machines that share no disk, or where something of a former save is left."""
    tensors = some_tensors()
    for part, names_of_it in (("0", [0, 1, 2]), ("1", [3, 4, 5]), ("2", [5])):
        save_tensors({f"layer.{i}.weight": tensors[f"layer.{i}.weight"] for i in names_of_it}, tmp_path / part)
    for parts, wrong in (("0", r"layer\.3\.weight, layer\.4\.weight"), ("012", r"layer\.5\.weight"), ("", "layer")):
        with pytest.raises(OSError, match=rf"lack tensors or hold them twice: {wrong}"):
            join_checkpoints([tmp_path / part for part in parts], tmp_path / "joined", tensors)
        assert not (tmp_path / "joined").exists()
    join_checkpoints([tmp_path / "0", tmp_path / "1"], tmp_path / "joined", tensors)


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path):
    save_tensors(some_tensors(count=3), tmp_path, max_shard_size=1)
    assert len(list(tmp_path.glob("model-*-of-00003.safetensors"))) == 3
    assert_same(read(tmp_path), some_tensors(count=3))


@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}], ids=["safetensors", "bin"])
def test_files_are_readable_by_whom_the_umask_allows(tmp_path, options):
    plain = tmp_path / "plain"
    plain.touch()
    for path in save_tensors(some_tensors(), tmp_path, max_shard_size=256, **options):
        assert stat.filemode(path.stat().st_mode) == stat.filemode(plain.stat().st_mode), path.name


@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}], ids=["safetensors", "bin"])
def test_views_are_saved_as_what_they_show(tmp_path, options):
    base = torch.arange(40.0).reshape(4, 10)
    tensors = {"transposed": base.t(), "expanded": torch.ones(1).expand(3), "halves": torch.arange(1000)[500:510]}
    paths = save_tensors(tensors, tmp_path, **options)
    assert_same(read(tmp_path), tensors)
    assert paths[0].stat().st_size < 4000


@pytest.mark.parametrize("max_shard_size", ["5GB", 1], ids=["in one shard", "in several"])
@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}], ids=["safetensors", "bin"])
def test_shared_memory_is_refused(tmp_path, max_shard_size, options):
    table = torch.arange(12.0)
    with pytest.raises(ValueError, match="'head' and 'table' share memory"):
        save_tensors({"table": table, "head": table}, tmp_path, max_shard_size=max_shard_size, **options)
    with pytest.raises(ValueError, match="'a' and 'b' share memory"):
        save_tensors({"a": table[:6], "b": table[5:]}, tmp_path, max_shard_size=max_shard_size, **options)
    assert names(tmp_path) == []
    save_tensors({"a": table[:6], "b": table[6:]}, tmp_path, max_shard_size=max_shard_size, **options)
    assert_same(read(tmp_path), {"a": table[:6], "b": table[6:]})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no tensors"),
        ({"a": torch.ones(2, device="meta")}, "'a': it must be a dense tensor with data, and is torch.strided on meta"),
        ({"a": torch.eye(2).to_sparse()}, "'a': it must be a dense tensor with data, and is torch.sparse_coo on cpu"),
    ],
)
def test_what_cannot_be_saved(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        save_tensors(tensors, tmp_path / "new")
    with pytest.raises(ValueError, match="max_shard_size must be positive"):
        save_tensors(some_tensors(), tmp_path / "new", max_shard_size=0)
    assert names(tmp_path) == []


SHARDED, MORE_SHARDS, SINGLE = {"max_shard_size": 256}, {"max_shard_size": 128}, {}
PICKLED, PICKLED_SHARDS = {"safe_serialization": False}, {"safe_serialization": False, "max_shard_size": 256}


@pytest.mark.parametrize("after", [SINGLE, SHARDED, MORE_SHARDS, PICKLED, PICKLED_SHARDS], ids=str)
@pytest.mark.parametrize("before", [SINGLE, SHARDED, MORE_SHARDS], ids=str)
def test_the_new_checkpoint_takes_the_place_of_the_old(tmp_path, before, after):
    """What a load then finds is the new one, even where the reference would leave an older file that hides it."""
    save_tensors(some_tensors(seed=1), tmp_path, **before)
    new = save_tensors(some_tensors(seed=2), tmp_path, **after)
    assert names(tmp_path) == sorted(path.name for path in new)
    assert_same(read(tmp_path), some_tensors(seed=2))


def test_nothing_else_is_removed(tmp_path):
    save_tensors(some_tensors(), tmp_path, **PICKLED_SHARDS)
    save_tensors(some_tensors(), tmp_path, variant="fp16", **SHARDED)
    others = ["config.json", "model.bin", "model.onnx", "model-00001-of-00002.safetensors.bak", "adapter.safetensors"]
    for name in others:
        (tmp_path / name).write_text(name)
    (tmp_path / "logs").mkdir()
    kept = snapshot(tmp_path)
    save_tensors(some_tensors(), tmp_path, **SHARDED)
    save_tensors(some_tensors(), tmp_path, **SINGLE)
    after = snapshot(tmp_path)
    assert after.pop("model.safetensors")
    assert after == kept
    assert (tmp_path / "logs").is_dir()


# Failures. Each finds an older checkpoint in the folder, and must leave every byte of it.


@pytest.fixture(params=[SINGLE, SHARDED], ids=["old: single", "old: sharded"])
def old(tmp_path, request) -> Path:
    folder = tmp_path / "model"
    save_tensors(some_tensors(seed=1), folder, **request.param)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("options", [SHARDED, PICKLED_SHARDS], ids=["safetensors", "bin"])
def test_a_failing_write(old, monkeypatch, error, options):
    before = snapshot(old)
    writer = "_write_pickle" if options is PICKLED_SHARDS else "_write_safetensors"
    write = getattr(writing, writer)

    def failing(shard: dict[str, torch.Tensor], path: Path, *rest: object) -> None:
        if "00002-of" in path.name:
            path.write_bytes(b"half")
            raise error
        write(shard, path, *rest)

    monkeypatch.setattr(writing, writer, failing)
    with pytest.raises(type(error)):
        save_tensors(some_tensors(seed=2), old, **options)
    assert snapshot(old) == before
    assert names(old) == sorted(before)


@pytest.mark.parametrize("at", range(1, 6))
def test_a_failing_move_is_taken_back(old, monkeypatch, at):
    before = snapshot(old)
    replace, calls = os.replace, []

    def failing(source: object, target: object) -> None:
        calls.append(target)
        if len(calls) == at:
            raise OSError(5, "Input/output error")
        replace(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="Input/output error"):
            save_tensors(some_tensors(seed=2), old, **SHARDED)
    assert snapshot(old) == before


def child(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in another process, with this package on its path."""
    source = str(Path(writing.__file__).parents[2])
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, tests]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system for the peak of the memory in use")
@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}], ids=["safetensors", "bin"])
def test_saving_takes_no_second_copy(tmp_path, options):
    megabytes = 96
    result = child(
        """
        import json, re, sys, torch
        from pathlib import Path
        from quintet.checkpoint import save_tensors

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

        options = json.loads(sys.argv[3])
        save_tensors({"first": torch.ones(1)}, sys.argv[1], **options)
        tensors = {str(i): torch.ones(2**18) for i in range(int(sys.argv[2]))}
        before = peak()
        save_tensors(tensors, sys.argv[1], **options)
        print(peak() - before)
        """,
        tmp_path,
        megabytes,
        json.dumps(options),
    )
    assert float(result.stdout) < megabytes / 8, result


@pytest.mark.parametrize("format_", ["safetensors", "bin"])
def test_a_full_disk(old, format_):
    """The system refuses to write past 100 kB, as it does on a full disk; the real writers meet it."""
    before = snapshot(old)
    result = child(
        """
        import resource, signal, sys, torch
        from quintet.checkpoint import save_tensors
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_tensors({"a": torch.ones(300), "b": torch.ones(10**6)}, sys.argv[1], max_shard_size=1000,
                         safe_serialization=sys.argv[2] == "safetensors")
        except OSError as error:
            print("refused:", error)
        """,
        old,
        format_,
    )
    assert result.stdout.startswith("refused: Cannot write "), result
    assert "00002-of-00002" in result.stdout
    assert snapshot(old) == before
    assert names(old) == sorted(before)


@pytest.mark.parametrize("moment", ["writing", "moving"])
def test_a_killed_process(old, moment):
    """Killed while it writes, or while it moves the finished files: what a load finds is the old checkpoint, whole."""
    before = snapshot(old)
    result = child(
        """
        import os, signal, sys
        from checkpoint.tiny import some_tensors
        from quintet.checkpoint import save_tensors, writing
        from quintet.files import staging

        def die_writing(shard, path, *rest):
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

        def die_moving(self, source):
            if "00003-of" in source.name:
                os.kill(os.getpid(), signal.SIGKILL)
            into(self, source)

        into = staging._Move.into
        if sys.argv[2] == "writing":
            writing._write_safetensors = die_writing
        else:
            staging._Move.into = die_moving
        save_tensors(some_tensors(seed=2), sys.argv[1], max_shard_size=128)
        """,
        old,
        moment,
    )
    assert result.returncode == -signal.SIGKILL, result
    after = snapshot(old)
    assert {name: after[name] for name in before} == before
    assert_same(read(old), some_tensors(seed=1))
    save_tensors(some_tensors(seed=3), old, **SHARDED)  # and the next save is not in the way of what was left
    assert_same(read(old), some_tensors(seed=3))
