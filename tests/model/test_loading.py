"""Checkpoints that do not quite fit: other heads, other sizes, other names, and the quirks of published ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import quintet

from .reference import HEADS, assert_same, make_batch, make_pair

STRAY = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.split(".")[0] == "quintet"]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="quintet")
    return caplog


def load(library: Any, head: str, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    return getattr(library, f"T5{head}").from_pretrained(folder, output_loading_info=True, **options)


def change_file(folder: Path, change: Any) -> dict[str, torch.Tensor]:
    """Rewrites the weights of a checkpoint as `change` leaves them."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return weights


# -- other heads


@pytest.mark.parametrize("wanted", HEADS)
@pytest.mark.parametrize("saved", HEADS)
def test_any_head_loads_any_other_s_checkpoint(saved: str, wanted: str, tmp_path: Path, log: Any) -> None:
    make_pair(saved).theirs.save_pretrained(tmp_path)
    labels = {"num_labels": 2} if wanted == "ForQuestionAnswering" else {}
    labels |= {"ignore_mismatched_sizes": True}
    ours, report = load(quintet, wanted, tmp_path, **labels)
    theirs, expected = load(transformers, wanted, tmp_path, **labels)
    if wanted == "ForTokenClassification":
        # The reference complains here, and only here, that an encoder leaves the decoder's weights.
        expected["unexpected_keys"] = [name for name in expected["unexpected_keys"] if ".decoder." not in name]
    # The reference names what the file holds too much as if the model's prefix stood in the file.
    expected["unexpected_keys"] = [name.removeprefix("transformer.") for name in expected["unexpected_keys"]]
    report["unexpected_keys"] = [name.removeprefix("transformer.") for name in report["unexpected_keys"]]
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert sorted(report[key]) == sorted(expected[key]), key
    missing = set(report["missing_keys"])
    for name, tensor in theirs.state_dict().items():
        if name not in missing:
            assert torch.equal(ours.state_dict()[name], tensor), name
    if missing:
        assert len(warnings_of(log)) == 1
        assert all(name in warnings_of(log)[0] for name in missing)
    with torch.no_grad():
        assert torch.isfinite(ours.eval()(**make_batch(wanted))[0]).all()


@pytest.mark.parametrize(
    ("head", "parameter", "spread"),
    [
        ("ForSequenceClassification", "classification_head.dense.weight", 32**-0.5),
        ("ForTokenClassification", "classifier.weight", 1.0),
        ("ForQuestionAnswering", "qa_outputs.weight", 32**-0.5),
    ],
)
def test_a_missing_head_is_drawn_as_a_new_one(head: str, parameter: str, spread: float, tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    torch.manual_seed(0)
    labels = {"num_labels": 2} if head == "ForQuestionAnswering" else {}
    model, report = load(quintet, head, tmp_path, **labels)
    assert parameter in report["missing_keys"]
    weight = model.get_parameter(parameter)
    assert weight.std().item() == pytest.approx(spread, rel=0.4)
    assert not model.get_parameter(parameter.replace("weight", "bias")).any()
    assert not weight.is_meta


def test_a_complete_checkpoint_is_loaded_without_a_word(tmp_path: Path, log: Any) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    load(quintet, "ForConditionalGeneration", tmp_path)
    load(quintet, "EncoderModel", tmp_path)
    assert warnings_of(log) == []


# -- other sizes


def test_another_number_of_labels_needs_permission(tmp_path: Path) -> None:
    make_pair("ForSequenceClassification").ours.save_pretrained(tmp_path)
    with pytest.raises((RuntimeError, ValueError), match=r"(?s)classification_head\.out_proj.*3.*5") as caught:
        quintet.T5ForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert "ignore_mismatched_sizes" in str(caught.value)


def test_other_sizes_are_drawn_anew_with_permission(tmp_path: Path, log: Any) -> None:
    make_pair("ForSequenceClassification").theirs.save_pretrained(tmp_path)
    options = {"num_labels": 5, "ignore_mismatched_sizes": True}
    ours, report = load(quintet, "ForSequenceClassification", tmp_path, **options)
    theirs, expected = load(transformers, "ForSequenceClassification", tmp_path, **options)
    assert sorted(report["mismatched_keys"]) == sorted(expected["mismatched_keys"])
    assert sorted(report["missing_keys"]) == sorted(expected["missing_keys"])
    assert ours.classification_head.out_proj.weight.shape == (5, 32)
    assert torch.equal(ours.classification_head.dense.weight, theirs.classification_head.dense.weight)
    assert len(warnings_of(log)) == 1
    assert "classification_head.out_proj.weight" in warnings_of(log)[0]
    assert "(3, 32)" in warnings_of(log)[0].replace("[", "(").replace("]", ")")


def test_another_vocabulary_needs_permission(tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    with pytest.raises((RuntimeError, ValueError), match=r"(?s)shared\.weight.*99.*120"):
        quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, vocab_size=120)


# -- configuration


def test_the_configuration_can_be_overridden(tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    options = {"num_labels": 7, "problem_type": "multi_label_classification", "dropout_rate": 0.3, "use_cache": False}
    ours, theirs = (
        library.T5ForSequenceClassification.from_pretrained(tmp_path, **options) for library in (quintet, transformers)
    )
    for model in (ours, theirs):
        assert {name: getattr(model.config, name) for name in options} == options
    assert ours.config.id2label == theirs.config.id2label
    assert ours.classification_head.out_proj.out_features == 7
    assert {module.p for module in ours.modules() if isinstance(module, torch.nn.Dropout)} == {0.3, 0.0}


def test_a_configuration_can_be_given(tmp_path: Path) -> None:
    pair = make_pair("ForConditionalGeneration")
    pair.ours.save_pretrained(tmp_path)
    config = quintet.T5Config.from_pretrained(tmp_path, dropout_rate=0.4)
    model = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, config=config)
    assert model.config.dropout_rate == 0.4
    with torch.no_grad():
        batch = make_batch("ForConditionalGeneration")
        assert_same(model(**batch).logits, pair.theirs(**batch).logits, 1e-4)


def test_a_wrong_override_is_refused(tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="problem_type"):
        quintet.T5ForSequenceClassification.from_pretrained(tmp_path, problem_type="ranking")
    with pytest.raises(TypeError, match="nonsense"):
        quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, nonsense=3)


def test_an_mt5_checkpoint_in_a_t5_class(tmp_path: Path) -> None:
    """Many users load mT5 with T5's names: its configuration says it is untied."""
    pair = make_pair("ForConditionalGeneration", "mt5")
    pair.theirs.save_pretrained(tmp_path)
    model = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        batch = make_batch("ForConditionalGeneration")
        assert_same(model(**batch).logits, pair.theirs(**batch).logits, 1e-4)


# -- published quirks


@pytest.mark.parametrize("head", HEADS)
def test_a_stray_cross_attention_bias_is_ignored(head: str, tmp_path: Path, log: Any) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    change_file(tmp_path, lambda weights: weights.update({STRAY: torch.ones(8, 4)}))
    model, report = load(quintet, head, tmp_path, num_labels=2)
    assert STRAY not in report["unexpected_keys"]
    assert not any("EncDecAttention.relative_attention_bias" in name for name in model.state_dict())
    assert not any(STRAY in message for message in warnings_of(log))


@pytest.mark.parametrize("kept", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
@pytest.mark.parametrize("variant", ["t5", "v1.1"])
def test_embeddings_may_be_stored_under_another_name(variant: str, kept: str, tmp_path: Path, log: Any) -> None:
    pair = make_pair("ForConditionalGeneration", variant)
    pair.ours.save_pretrained(tmp_path)
    change_file(tmp_path, lambda weights: weights.update({kept: weights.pop("shared.weight")}))
    ours, report = load(quintet, "ForConditionalGeneration", tmp_path)
    assert report["missing_keys"] == []
    assert report["unexpected_keys"] == []
    assert torch.equal(ours.shared.weight, pair.theirs.shared.weight)
    assert torch.equal(ours.lm_head.weight, pair.theirs.lm_head.weight)
    assert warnings_of(log) == []


def test_embeddings_may_be_stored_under_every_name(tmp_path: Path, log: Any) -> None:
    pair = make_pair("ForConditionalGeneration")
    pair.ours.save_pretrained(tmp_path)
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    change_file(tmp_path, lambda weights: weights.update({name: weights["shared.weight"].clone() for name in names}))
    ours, report = load(quintet, "ForConditionalGeneration", tmp_path)
    assert report["missing_keys"] == report["unexpected_keys"] == []
    assert torch.equal(ours.lm_head.weight, pair.theirs.shared.weight)
    assert ours.lm_head.weight is ours.shared.weight
    assert warnings_of(log) == []


def test_the_embeddings_are_never_taken_from_an_untied_output(tmp_path: Path, log: Any) -> None:
    make_pair("ForConditionalGeneration", "v1.1").ours.save_pretrained(tmp_path)
    change_file(tmp_path, lambda weights: weights.pop("shared.weight"))
    model, report = load(quintet, "ForConditionalGeneration", tmp_path)
    assert "shared.weight" in report["missing_keys"]
    assert not torch.equal(model.shared.weight, model.lm_head.weight)
    assert any("shared.weight" in message for message in warnings_of(log))


def test_a_tied_output_of_its_own_is_not_used(tmp_path: Path) -> None:
    pair = make_pair("ForConditionalGeneration")
    pair.ours.save_pretrained(tmp_path)
    change_file(tmp_path, lambda weights: weights.update({"lm_head.weight": torch.zeros(99, 32)}))
    ours, theirs = (load(library, "ForConditionalGeneration", tmp_path)[0] for library in (quintet, transformers))
    assert torch.equal(ours.lm_head.weight, pair.theirs.shared.weight)
    assert torch.equal(theirs.lm_head.weight, pair.theirs.shared.weight)


def test_an_untied_output_that_is_missing_is_drawn(tmp_path: Path, log: Any) -> None:
    make_pair("ForConditionalGeneration", "v1.1").ours.save_pretrained(tmp_path)
    change_file(tmp_path, lambda weights: weights.pop("lm_head.weight"))
    model, report = load(quintet, "ForConditionalGeneration", tmp_path)
    assert report["missing_keys"] == ["lm_head.weight"]
    assert model.lm_head.weight.std().item() == pytest.approx(1.0, rel=0.1)
    assert len(warnings_of(log)) == 1


def test_a_layer_that_is_missing_is_named(tmp_path: Path, log: Any) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    name = "decoder.block.1.layer.2.DenseReluDense.wi.weight"
    change_file(tmp_path, lambda weights: weights.pop(name))
    model, report = load(quintet, "ForConditionalGeneration", tmp_path)
    assert report["missing_keys"] == [name]
    assert model.get_parameter(name).std().item() == pytest.approx(32**-0.5, rel=0.2)
    assert len(warnings_of(log)) == 1
    assert name in warnings_of(log)[0]


def test_names_that_mean_nothing_are_reported(tmp_path: Path, log: Any) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    change_file(tmp_path, lambda weights: weights.update({"my.own.tensor": torch.ones(2)}))
    _, report = load(quintet, "ForConditionalGeneration", tmp_path)
    assert report["unexpected_keys"] == ["my.own.tensor"]
    assert len(warnings_of(log)) == 1
    assert "my.own.tensor" in warnings_of(log)[0]


def test_deeper_checkpoints_lose_their_last_layers(tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").theirs.save_pretrained(tmp_path)
    options = {"num_layers": 1, "num_decoder_layers": 1}
    (_, report), (_, expected) = (
        load(library, "ForConditionalGeneration", tmp_path, **options) for library in (quintet, transformers)
    )
    assert sorted(report["unexpected_keys"]) == sorted(expected["unexpected_keys"])


# -- nothing there


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        quintet.T5Model.from_pretrained(tmp_path / "nowhere")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    quintet.T5Config().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors") as caught:
        quintet.T5Model.from_pretrained(tmp_path)
    assert "pytorch_model.bin" in str(caught.value)


def test_saving_over_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("kept")
    with pytest.raises(OSError, match="precious"):
        make_pair("EncoderModel").ours.save_pretrained(path)
    assert path.read_text() == "kept"


def test_a_configuration_can_be_a_file(tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path / "model")
    quintet.T5Config.from_pretrained(tmp_path / "model", dropout_rate=0.4).to_json_file(tmp_path / "other.json")
    model = quintet.T5Model.from_pretrained(tmp_path / "model", config=tmp_path / "other.json")
    assert model.config.dropout_rate == 0.4
