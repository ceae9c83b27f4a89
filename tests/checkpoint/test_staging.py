"""Staging: files arrive in the folder together, or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from quintet.checkpoint import save_tensors
from quintet.files import new_folder, staged
from quintet.files.names import is_index, is_shard, superseded

from .tiny import assert_same, read, snapshot, some_tensors


def test_files_arrive_at_the_end(tmp_path):
    (tmp_path / "config.json").write_text("old")
    with staged(tmp_path) as staging:
        (staging / "config.json").write_text("new")
        (staging / "other.json").write_text("other")
        assert staging.parent == tmp_path, "a rename must not cross file systems"
        assert (tmp_path / "config.json").read_text() == "old"
    assert snapshot(tmp_path) == {"config.json": b"new", "other.json": b"other"}
    assert not staging.exists()


def test_a_checkpoint_and_its_companions_arrive_together(tmp_path):
    """A save within a stage: the outer one removes the former checkpoint."""
    save_tensors(some_tensors(seed=1), tmp_path)
    with staged(tmp_path) as staging:
        (staging / "config.json").write_text("{}")
        save_tensors(some_tensors(seed=2), staging, max_shard_size=256)
        assert_same(read(tmp_path), some_tensors(seed=1))
    assert not (tmp_path / "model.safetensors").exists()
    assert_same(read(tmp_path), some_tensors(seed=2))


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_no_trace(tmp_path, error):
    (tmp_path / "config.json").write_text("old")
    before = snapshot(tmp_path)

    def fail(folder: Path) -> None:
        with staged(folder) as staging:
            (staging / "config.json").write_text("new")
            raise error

    for folder in (tmp_path, tmp_path / "new" / "deeper"):
        with pytest.raises(type(error)):
            fail(folder)
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_in_the_way_is_kept(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "b.json").mkdir()
    (tmp_path / "b.json" / "precious").touch()
    before = snapshot(tmp_path)

    def save() -> None:
        with staged(tmp_path) as staging:
            (staging / "a.json").write_text("new")
            (staging / "b.json").write_text("new")

    with pytest.raises(IsADirectoryError, match=r"b\.json: it is a folder"):
        save()
    assert snapshot(tmp_path) == before


def test_without_hard_links(tmp_path, monkeypatch):
    """Some file systems have none; taking a move back works there too."""

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_a_folder_in_the_way_is_kept(tmp_path)
    with staged(tmp_path) as staging:
        (staging / "a.json").write_text("new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_link_is_replaced_not_followed(tmp_path):
    """Saving into a hub cache must not write into its blobs."""
    blob = tmp_path / "blob"
    blob.write_text("cached")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").symlink_to(blob)
    with staged(folder) as staging:
        (staging / "config.json").write_text("new")
    assert blob.read_text() == "cached"
    assert (folder / "config.json").read_text() == "new"


def test_equal_shard_names_never_mix_under_an_index(tmp_path, monkeypatch):
    """From the first new shard to the last, there is no index that could be loaded."""
    save_tensors(some_tensors(seed=1), tmp_path, max_shard_size=256)
    replace, seen = os.replace, []

    def watched(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        replace(source, target)
        held = os.listdir(tmp_path)
        seen.append((os.path.basename(target), "model.safetensors.index.json" in held))

    with staged(tmp_path) as staging:
        save_tensors(some_tensors(seed=2), staging, max_shard_size=256)
        monkeypatch.setattr(os, "replace", watched)
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert seen[0] == ("model.safetensors.index.json", False)
    assert sorted(seen[1:4]) == [(shard, False) for shard in shards]
    assert seen[4:] == [("model.safetensors.index.json", True)]


def test_files_are_on_the_disk_before_they_move(tmp_path, monkeypatch):
    """Else a power failure after the move could leave an empty file in the place of a whole one."""
    replace, fsync, steps = os.replace, os.fsync, []

    def flushed(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(("flush", os.fstat(descriptor).st_ino))

    def moved(source: Path, target: Path) -> None:
        replace(source, target)
        steps.append(("move", target.stat().st_ino))

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", moved)
    with staged(tmp_path) as staging:
        (staging / "config.json").write_text("new")
    file = (tmp_path / "config.json").stat().st_ino
    assert steps == [("flush", file), ("move", file), ("flush", tmp_path.stat().st_ino)]


def test_what_killed_saves_left_is_removed_later(tmp_path):
    for name, age in (("yesterday's", 2 * 24 * 3600), ("running", 60)):
        left = tmp_path / f".staging-{name}"
        left.mkdir()
        (left / "half").touch()
        now = left.stat().st_mtime
        os.utime(left, (now - age, now - age))
    save_tensors(some_tensors(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".staging-running", "model.safetensors"]


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "model").write_text("mine")
    for folder in (tmp_path / "model", tmp_path / "model" / "below"):
        with pytest.raises(OSError, match=r"Cannot save into .*model"):
            save_tensors(some_tensors(), folder)
    assert snapshot(tmp_path) == {"model": b"mine"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc refuses new files to everybody, root too")
def test_a_folder_that_cannot_be_written():
    for folder in ("/proc", "/proc/model"):
        with pytest.raises(OSError, match=f"Cannot save into {folder}: "):
            save_tensors(some_tensors(), folder)


def test_which_files_belong_to_a_former_checkpoint():
    single, pickled, index = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    half = ["model.fp16.safetensors", "model.safetensors.index.fp16.json", "model.fp16-00001-of-00002.safetensors"]
    others = ["model.bin", "pytorch_model.safetensors", "config.json", "tf_model.h5", "model.safetensors.tmp"]
    held = [*half, *shards, pickled, single, index, *others]
    assert superseded([single], held) == [index, *shards]
    assert superseded([*shards, index], held) == [single]
    assert superseded([pickled], held) == [index, *shards, single]
    assert superseded([half[0]], held) == [half[1], half[2]]
    assert superseded(["config.json"], held) == []
    assert [name for name in held if is_index(name)] == [half[1], index]
    assert [name for name in held if is_shard(name)] == [half[2], *shards]


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with new_folder(target) as inside:
        (inside / "sub").mkdir()
        (inside / "sub" / "file").write_text("text")
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "text"
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    made = tmp_path / "made"
    made.mkdir()
    assert target.stat().st_mode == made.stat().st_mode  # others may read it, if the umask lets them


def test_a_new_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), new_folder(tmp_path / "target") as inside:
        inside.write_text("text")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").touch()
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "target"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "mine"]
