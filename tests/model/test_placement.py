"""On which device a model's weights go: one device, several, or the disk."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import quintet
from quintet.model import placement

from .reference import make_batch, make_pair

BLOCKS_ON_DISK: dict[str, Any] = {
    "shared": "cpu",
    "encoder.embed_tokens": "cpu",
    "encoder.block.0": "cpu",
    "encoder.block.1": "disk",
    "encoder.final_layer_norm": "disk",
    "decoder.embed_tokens": "cpu",
    "decoder.block": "disk",
    "decoder.final_layer_norm": "cpu",
    "lm_head": "cpu",
}
A_BLOCK_ON_DISK: dict[str, Any] = {"": "cpu", "encoder.block.1": "disk"}
WITHOUT_ACCELERATOR = pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without accelerator")


@pytest.fixture(scope="module", params=["t5", "v1.1", "umt5"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model in memory, and the folder it was saved in."""
    model = make_pair("ForConditionalGeneration", request.param, backend="sdpa").ours
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    make_pair("ForConditionalGeneration").ours.save_pretrained(folder)
    return folder


@pytest.fixture
def without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)


def load(folder: Path, device_map: Any, **options: Any) -> Any:
    return quintet.T5ForConditionalGeneration.from_pretrained(folder, device_map=device_map, **options)


def assert_same_results(model: Any, plain: Any) -> None:
    batch = make_batch("ForConditionalGeneration")
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, plain(**batch).logits)
    for cache in (None, "static"):
        options = {"max_new_tokens": 8, "cache_implementation": cache}
        assert torch.equal(model.generate(**source, **options), plain.generate(**source, **options))


# -- one device


@pytest.mark.parametrize("device_map", [None, "cpu", torch.device("cpu"), {"": "cpu"}, {"": torch.device("cpu")}])
@pytest.mark.usefixtures("without_accelerate")
def test_one_device_needs_no_accelerate(device_map: Any, folder: Path) -> None:
    model = load(folder, device_map)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@WITHOUT_ACCELERATOR
@pytest.mark.parametrize("strategy", placement.STRATEGIES)
@pytest.mark.usefixtures("without_accelerate")
def test_without_an_accelerator_every_strategy_is_the_cpu(strategy: str, folder: Path) -> None:
    model = load(folder, strategy)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.usefixtures("without_accelerate")
def test_a_map_to_one_device_is_that_device(folder: Path) -> None:
    parts = {"shared": "cpu", "encoder": torch.device("cpu"), "decoder": "cpu", "lm_head": "cpu"}
    assert load(folder, parts).device == torch.device("cpu")
    assert placement.single_device({"encoder": "meta", "decoder": torch.device("meta")}) == torch.device("meta")


def test_the_default_device_is_followed() -> None:
    with torch.device("meta"):
        assert placement.single_device(None) == torch.device("meta")


# -- what is refused


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
@pytest.mark.parametrize("device_map", ["cuda", "cuda:1", torch.device("cuda"), {"encoder": "cpu", "": "cuda:0"}])
def test_cuda_that_is_not_there(device_map: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"device_map asks for cuda.*, but no CUDA device is available here"):
        load(folder, device_map)


@WITHOUT_ACCELERATOR
@pytest.mark.parametrize("device_map", [0, {"": 0}])
def test_a_number_without_an_accelerator(device_map: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="device_map asks for accelerator 0, but none is available here"):
        load(folder, device_map)


@pytest.mark.parametrize("device_map", ["everywhere", 1.5, ["cpu"], {"": "everywhere"}, {"encoder": "dsk", "": "cpu"}])
def test_what_is_no_device(device_map: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"device_map must be a device, one of auto, balanced.*, or a dictionary"):
        load(folder, device_map)


def test_a_part_without_a_place(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"device_map says no place for decoder\.block"):
        load(folder, {"shared": "cpu", "encoder": "cpu", "decoder.embed_tokens": "cpu", "lm_head": "cpu"})


@pytest.mark.parametrize(
    "device_map",
    [{"": "cpu", "encoder": "disk"}, {"": "cpu", "lm_head": "disk"}, {"": "cpu", "shared": "disk"}],
)
def test_a_shared_weight_is_not_torn(device_map: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"and shared\.weight are one weight: device_map must put both on disk"):
        load(folder, device_map, offload_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_taken_out_of_a_part_on_disk(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"puts encoder\.block\.0\..* elsewhere than a part on disk that holds it"):
        load(folder, {"": "disk", "encoder.block": "cpu"}, offload_folder=tmp_path)


def test_the_disk_needs_a_folder(folder: Path) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(ValueError, match=r"puts '' on disk, which needs an offload_folder"):
        load(folder, {"": "disk"})


@pytest.mark.usefixtures("without_accelerate")
def test_spreading_without_accelerate_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"pip install 'quintet\[accelerate\]'"):
        load(folder, {"": "disk"}, offload_folder=tmp_path)


# -- several places


@pytest.fixture
def accelerate(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("accelerate")
    caplog.set_level(logging.ERROR, logger="accelerate")  # it reports what it offloads


@pytest.mark.parametrize("device_map", [BLOCKS_ON_DISK, A_BLOCK_ON_DISK, {"": "disk"}], ids=["blocks", "block", "all"])
@pytest.mark.usefixtures("accelerate")
def test_weights_on_disk_compute_the_same(checkpoint: tuple[Any, Path], device_map: Any, tmp_path: Path) -> None:
    plain, folder = checkpoint
    model = type(plain).from_pretrained(folder, device_map=dict(device_map), offload_folder=tmp_path)
    for name, parameter in model.named_parameters():
        assert parameter.is_meta == (placement._place(name, device_map) == "disk"), name
    assert_same_results(model, plain)


@pytest.mark.usefixtures("accelerate")
def test_what_another_model_left_on_disk_is_not_taken(checkpoint: tuple[Any, Path], tmp_path: Path) -> None:
    plain, folder = checkpoint
    other = type(plain)(plain.config)
    other.save_pretrained(tmp_path / "other")
    for saved, expected in ((tmp_path / "other", other.eval()), (folder, plain)):
        model = type(plain).from_pretrained(saved, device_map={"": "disk"}, offload_folder=tmp_path / "offloaded")
        assert_same_results(model, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("accelerate")
def test_parts_on_a_gpu_and_parts_in_memory(checkpoint: tuple[Any, Path]) -> None:
    plain, folder = checkpoint
    places: dict[str, Any] = {name: 0 if place == "cpu" else "cpu" for name, place in BLOCKS_ON_DISK.items()}
    model = type(plain).from_pretrained(folder, device_map=places)
    batch = {name: tensor.to(0) for name, tensor in make_batch("ForConditionalGeneration").items()}
    with torch.no_grad():
        logits = model(**batch).logits
    torch.testing.assert_close(logits.cpu(), plain(**make_batch("ForConditionalGeneration")).logits.detach())
