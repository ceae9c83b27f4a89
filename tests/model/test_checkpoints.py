"""What quintet saves loads in the reference, and the reverse: same weights, same answers, same report."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

import quintet

from .reference import HEADS, VARIANTS, Pair, assert_same, make_batch, make_pair

SMALL_SHARDS = "20KB"


def class_of(library: Any, head: str, variant: str = "t5") -> Any:
    return getattr(library, f"{VARIANTS[variant].family}{head}")


def assert_same_model(ours: Any, theirs: Any, head: str) -> None:
    """The same weights to the bit, and the same answers."""
    their_weights = theirs.state_dict()
    our_weights = ours.state_dict()
    assert our_weights.keys() == their_weights.keys()
    for name, tensor in their_weights.items():
        assert our_weights[name].dtype == tensor.dtype, name
        assert torch.equal(our_weights[name], tensor), name
    with torch.no_grad():
        assert_same(*(model.eval()(**make_batch(head, "left"))[0] for model in (ours, theirs)))


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Fails the test if quintet warned."""
    caplog.set_level(logging.WARNING, logger="quintet")
    yield caplog
    assert [record.getMessage() for record in caplog.records if record.name.startswith("quintet")] == []


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}, {"max_shard_size": SMALL_SHARDS}], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", ["ForConditionalGeneration", "ForTokenClassification"])
def test_both_ways_in_every_format(head: str, variant: str, options: dict[str, Any], tmp_path: Path) -> None:
    pair = make_pair(head, variant)
    pair.ours.save_pretrained(tmp_path / "ours", **options)
    pair.theirs.save_pretrained(tmp_path / "theirs", **options)
    assert_same_model(
        class_of(quintet, head, variant).from_pretrained(tmp_path / "theirs", attn_implementation="eager"),
        class_of(transformers, head, variant).from_pretrained(tmp_path / "ours"),
        head,
    )
    again = class_of(quintet, head, variant).from_pretrained(tmp_path / "ours")
    assert_same_model(again, pair.theirs, head)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("variant", ["t5", "v1.1", "mt5", "umt5"])
@pytest.mark.parametrize("head", HEADS)
def test_both_ways_for_every_head(head: str, variant: str, tmp_path: Path) -> None:
    pair = make_pair(head, variant)
    pair.ours.save_pretrained(tmp_path / "ours")
    pair.theirs.save_pretrained(tmp_path / "theirs")
    ours, our_report = class_of(quintet, head, variant).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    theirs, report = class_of(transformers, head, variant).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert_same_model(ours, theirs, head)
    for found in (our_report, report):
        assert {key: list(value) for key, value in found.items()} == {
            "missing_keys": [],
            "unexpected_keys": [],
            "mismatched_keys": [],
            "error_msgs": [],
        }


def test_the_files_are_named_as_published(tmp_path: Path) -> None:
    pair = make_pair("ForConditionalGeneration")
    names = {}
    for options in ({}, {"safe_serialization": False}, {"max_shard_size": SMALL_SHARDS}):
        for side, model in zip(("ours", "theirs"), pair, strict=True):
            folder = tmp_path / f"{side}{len(names)}"
            model.save_pretrained(folder, **options)
            names[folder.name] = {path.name for path in folder.iterdir()}
    sides = list(names.values())
    assert sides[0] == sides[1]
    assert sides[2] == sides[3]
    assert "model.safetensors.index.json" in sides[4]
    assert any(name.startswith("model-00001-of-") for name in sides[4])
    assert {"config.json", "generation_config.json", "model.safetensors"} <= sides[0]


@pytest.mark.parametrize("variant", ["t5", "v1.1"])
def test_tied_weights_are_stored_once(variant: str, tmp_path: Path) -> None:
    pair = make_pair("ForConditionalGeneration", variant)
    stored = []
    for name, model in zip(("ours", "theirs"), pair, strict=True):
        model.save_pretrained(tmp_path / name)
        with safe_open(tmp_path / name / "model.safetensors", "pt") as file:
            stored.append(set(file.keys()))
            assert file.metadata() == {"format": "pt"}
    assert stored[0] == stored[1]
    assert "shared.weight" in stored[0]
    assert ("lm_head.weight" in stored[0]) is (variant == "v1.1")


@pytest.mark.parametrize("head", HEADS)
def test_the_configuration_is_stored_with_it(head: str, tmp_path: Path) -> None:
    pair = make_pair(head)
    stored = []
    for name, model in zip(("ours", "theirs"), pair, strict=True):
        model.save_pretrained(tmp_path / name)
        values = json.loads((tmp_path / name / "config.json").read_text())
        stored.append({key: value for key, value in values.items() if not key.endswith("_version")})
    assert stored[0]["architectures"] == [f"T5{head}"]
    assert stored[0]["dtype"] == "float32"
    assert stored[0] == stored[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_type_of_the_weights_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_pair("ForConditionalGeneration", "v1.1").ours.to(dtype)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}  # noqa: SIM118
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    "wanted", [None, "auto", torch.bfloat16, "bfloat16", torch.float16, "float16", torch.float32, "float32"], ids=str
)
def test_the_type_that_is_asked_for(saved: torch.dtype, key: str, wanted: Any, tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration", "v1.1").theirs.to(saved).save_pretrained(tmp_path)
    options = {} if wanted is None else {key: wanted}
    ours, theirs = (
        library.T5ForConditionalGeneration.from_pretrained(tmp_path, **options) for library in (quintet, transformers)
    )
    assert ours.dtype == theirs.dtype
    assert ours.config.dtype == theirs.config.dtype
    weights = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == weights[name].dtype, name
        assert torch.equal(tensor, weights[name]), name


def test_auto_without_a_word_in_the_configuration_reads_the_weights(tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").theirs.bfloat16().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    for library in (quintet, transformers):
        model = library.T5ForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
        assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("wrong", ["float33", "int8", 16, torch.int64])
def test_a_type_that_weights_cannot_have(wrong: Any, tmp_path: Path) -> None:
    make_pair("EncoderModel").ours.save_pretrained(tmp_path)
    with pytest.raises((ValueError, TypeError), match="dtype"):
        quintet.T5EncoderModel.from_pretrained(tmp_path, dtype=wrong)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_backend_is_chosen_when_loading(backend: str, tmp_path: Path) -> None:
    pair = make_pair("ForConditionalGeneration")
    pair.ours.save_pretrained(tmp_path)
    model = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=backend)
    assert model.config._attn_implementation == backend
    with torch.no_grad():
        batch = make_batch("ForConditionalGeneration")
        assert_same(model(**batch).logits, pair.theirs(**batch).logits, 1e-4)
    assert "_attn_implementation" not in model.config.to_dict()


def test_a_loaded_model_is_ready_to_use_and_to_train(tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").ours.train().save_pretrained(tmp_path)
    model = quintet.T5ForConditionalGeneration.from_pretrained(str(tmp_path))
    assert not model.training
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    assert model.lm_head.weight is model.shared.weight
    assert model.config.name_or_path == str(tmp_path)
    stored = (tmp_path / "model.safetensors").read_bytes()
    model.train()
    model(input_ids=torch.tensor([[5, 1]]), labels=torch.tensor([[5, 1]])).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert (tmp_path / "model.safetensors").read_bytes() == stored, "training must not write into the file"


def test_loading_over_and_over_gives_separate_models(tmp_path: Path) -> None:
    make_pair("EncoderModel").ours.save_pretrained(tmp_path)
    first, second = (quintet.T5EncoderModel.from_pretrained(tmp_path) for _ in range(2))
    with torch.no_grad():
        first.shared.weight.zero_()
    assert second.shared.weight.abs().sum() > 0


def test_saving_over_an_older_checkpoint_replaces_it(tmp_path: Path) -> None:
    """No shard of the old one stays behind to be loaded with the new."""
    old, new = make_pair("ForConditionalGeneration", "umt5").ours, make_pair("ForConditionalGeneration").ours
    old.save_pretrained(tmp_path, max_shard_size=SMALL_SHARDS)
    new.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("model-*"))
    assert not (tmp_path / "model.safetensors.index.json").exists()
    pair = Pair(
        quintet.T5ForConditionalGeneration.from_pretrained(tmp_path),
        transformers.T5ForConditionalGeneration.from_pretrained(tmp_path),
    )
    assert_same_model(pair.ours, pair.theirs, "ForConditionalGeneration")


def test_the_real_checkpoint(shared: Path) -> None:
    folder = shared / "models" / "flan-t5-small-title"
    ours, theirs = (
        library.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        for library in (quintet, transformers)
    )
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    ids = torch.tensor(
        [[13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1], [363, 945, 19, 8, 5796, 58, 1, 0, 0, 0, 0]]
    )
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}
    with torch.no_grad():
        one, other = (model(**batch, output_hidden_states=True) for model in (ours, theirs))
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", ["cpu", "auto", {"": "cpu"}, torch.device("cpu")], ids=str)
def test_a_model_can_be_placed_while_it_loads(place: Any, tmp_path: Path) -> None:
    pair = make_pair("ForConditionalGeneration")
    pair.ours.save_pretrained(tmp_path)
    model = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, device_map=place)
    if torch.cuda.is_available() and place == "auto":
        model.to("cpu")
    assert_same_model(model, pair.theirs, "ForConditionalGeneration")


def test_parts_can_be_placed_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="splitting a model over devices needs the extra `accelerate`")
    pair = make_pair("ForConditionalGeneration", "v1.1")
    pair.ours.save_pretrained(tmp_path)
    places = dict.fromkeys(("shared", "encoder", "decoder", "lm_head"), "cpu")
    model = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, device_map=places)
    assert_same_model(model, pair.theirs, "ForConditionalGeneration")


@pytest.mark.parametrize("place", ["nowhere", {"encoder": "cpu"}, {"": "cpu:x"}, 3.5], ids=str)
def test_a_place_that_does_not_exist(place: Any, tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    with pytest.raises((ValueError, TypeError), match="device_map"):
        quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, device_map=place)
