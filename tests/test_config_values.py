"""A wrong value is refused at once, by a message that names the field and says what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import quintet

FAMILIES = ("T5Config", "MT5Config", "UMT5Config")
SIZES = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)


def assert_refused(field: str, value: Any, *allowed: str, family: str = "T5Config", **others: Any) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        getattr(quintet, family)(**{field: value}, **others)
    message = str(caught.value)
    assert repr(value) in message or str(value) in message, message
    for word in allowed:
        assert word in message, message


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [0, -1, 1.5, "64", True, [64]])
def test_sizes_are_positive_whole_numbers(field: str, value: Any, family: str) -> None:
    assert_refused(field, value, family=family)


@pytest.mark.parametrize("field", [name for name in SIZES if name != "num_decoder_layers"])
def test_sizes_are_not_optional(field: str) -> None:
    """Except the decoder's depth, where nothing means the encoder's."""
    assert_refused(field, None)
    assert quintet.T5Config(num_decoder_layers=None).num_decoder_layers == 6


@pytest.mark.parametrize("alias", ["hidden_size", "num_attention_heads", "num_hidden_layers", "head_dim"])
def test_aliases_are_held_to_the_same(alias: str) -> None:
    with pytest.raises(ValueError, match=r"d_model|num_heads|num_layers|d_kv"):
        quintet.T5Config(**{alias: 0})


@pytest.mark.parametrize("field", ["dropout_rate", "classifier_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.1", None])
def test_probabilities_lie_between_zero_and_one(field: str, value: Any) -> None:
    assert_refused(field, value, "0", "1")


@pytest.mark.parametrize("field", ["dropout_rate", "classifier_dropout"])
@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0])
def test_the_ends_of_the_range_are_allowed(field: str, value: float) -> None:
    assert getattr(quintet.T5Config(**{field: value}), field) == value


@pytest.mark.parametrize("field", ["layer_norm_epsilon", "initializer_factor"])
@pytest.mark.parametrize("value", [-1e-6, float("nan"), float("inf"), "small", None])
def test_factors_are_finite_numbers_and_not_negative(field: str, value: Any) -> None:
    assert_refused(field, value)


@pytest.mark.parametrize("value", [1, 2, 3])
def test_too_few_buckets(value: int) -> None:
    """Half of them are for the future, half of those for exact distances: with fewer than 4 none is left."""
    assert_refused("relative_attention_num_buckets", value, "4", relative_attention_max_distance=128)


@pytest.mark.parametrize("value", [5, 33])
def test_an_odd_number_of_buckets(value: int) -> None:
    """Nothing is wrong with it: the reference takes it, and the last bucket of the encoder stays empty."""
    config = quintet.T5Config(relative_attention_num_buckets=value)
    assert config.relative_attention_num_buckets == value


@pytest.mark.parametrize(("buckets", "distance"), [(32, 16), (32, 8), (8, 4), (64, 32), (32, 1), (256, 128)])
def test_a_distance_the_exact_buckets_already_cover(buckets: int, distance: int) -> None:
    """The causal buckets cover half their number exactly; the logarithm from there to the distance must exist."""
    with pytest.raises(ValueError, match="relative_attention_max_distance") as caught:
        quintet.T5Config(relative_attention_num_buckets=buckets, relative_attention_max_distance=distance)
    assert str(distance) in str(caught.value)
    assert str(buckets // 2) in str(caught.value)


@pytest.mark.parametrize(("buckets", "distance"), [(32, 17), (4, 3), (8, 5), (64, 33), (32, 128)])
def test_the_smallest_distance_that_works(buckets: int, distance: int) -> None:
    config = quintet.T5Config(relative_attention_num_buckets=buckets, relative_attention_max_distance=distance)
    assert config.relative_attention_max_distance == distance


@pytest.mark.parametrize(
    "value", ["gated-foo", "foo", "foo-gelu", "gated-gelu-relu", "gated-", "gated", "", "GATED-GELU", None, 3]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_projections(value: Any, family: str) -> None:
    with pytest.raises(ValueError, match="feed_forward_proj") as caught:
        getattr(quintet, family)(feed_forward_proj=value)
    assert "relu" in str(caught.value)
    assert "gated-" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "gelu_new", "silu", "swish", "tanh", "gelu_pytorch_tanh", "quick_gelu"]
)
def test_known_activations(name: str) -> None:
    """Those of the reference that a T5 was trained with; gated or not."""
    assert name in transformers.activations.ACT2FN
    for prefix in ("", "gated-"):
        assert quintet.T5Config(feed_forward_proj=prefix + name).feed_forward_proj == prefix + name


@pytest.mark.parametrize("value", [1, "summarization", [], {"summarization": "prefix"}, {"summarization": None}])
def test_task_parameters_are_dictionaries(value: Any) -> None:
    assert_refused("task_specific_params", value, "a dictionary for each task")


@pytest.mark.parametrize("value", [[], {}, 5])
def test_a_model_type_is_a_name(value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": value}))
    with pytest.raises(ValueError, match="is not of the T5 family"):
        quintet.AutoConfig.from_pretrained(tmp_path)


def test_unknown_problem_types() -> None:
    kinds = ("regression", "single_label_classification", "multi_label_classification")
    assert_refused("problem_type", "ranking", *kinds)


@pytest.mark.parametrize("value", [0, -2, 1.5, "three"])
def test_the_number_of_labels(value: Any) -> None:
    assert_refused("num_labels", value)


@pytest.mark.parametrize("value", [3, ["a", "b"], "ab", {"zero": "a"}])
def test_labels_by_id(value: Any) -> None:
    with pytest.raises(ValueError, match="id2label"):
        quintet.T5Config(id2label=value)


@pytest.mark.parametrize("field", ["use_cache", "is_encoder_decoder", "tie_word_embeddings"])
@pytest.mark.parametrize("value", ["yes", 2, None])
def test_switches_are_true_or_false(field: str, value: Any) -> None:
    assert_refused(field, value)


def test_an_unknown_type() -> None:
    with pytest.raises(ValueError, match=r"dtype.*float33|float33.*dtype"):
        quintet.T5Config(dtype="float33")


@pytest.mark.parametrize("field", ["pad_token_id", "decoder_start_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [1.5, "0", [None]])
def test_token_ids_are_whole_numbers(field: str, value: Any) -> None:
    assert_refused(field, value)


@pytest.mark.parametrize("field", ["pad_token_id", "decoder_start_token_id"])
@pytest.mark.parametrize("value", [[], [0]])
def test_padding_and_the_start_are_one_token(field: str, value: Any) -> None:
    assert_refused(field, value)


@pytest.mark.parametrize("value", [-1, 32128])
def test_the_start_is_a_token_of_the_vocabulary(value: int) -> None:
    assert_refused("decoder_start_token_id", value)
    assert quintet.T5Config(decoder_start_token_id=32127).decoder_start_token_id == 32127


@pytest.mark.parametrize("value", [-1, [1], {"0": 1}])
def test_pruned_heads_are_listed_by_layer(value: Any) -> None:
    assert_refused("pruned_heads", value)


def test_token_ids_that_published_configurations_use() -> None:
    """Several ends, or none at all; -1 for a pad that does not exist."""
    assert quintet.T5Config(eos_token_id=[1, 106]).eos_token_id == [1, 106]
    assert quintet.T5Config(eos_token_id=None).eos_token_id is None
    assert quintet.T5Config(pad_token_id=-1).pad_token_id == -1


def test_a_wrong_value_is_refused_from_every_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="d_model"):
        quintet.T5Config.from_dict({"d_model": -4})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "d_ff": "wide"}))
    with pytest.raises(ValueError, match="d_ff"):
        quintet.T5Config.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ValueError, match="num_heads"):
        quintet.T5Config.from_pretrained(tmp_path, num_heads=0)


@pytest.mark.parametrize("text", ["", "{", '{"d_model": }', "[1, 2]", "nonsense", b"\xff\xfe\x00"])
def test_a_file_that_is_no_json_object(text: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((ValueError, OSError), match=r"config\.json"):
        quintet.T5Config.from_pretrained(tmp_path)


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config\.json"):
        quintet.T5Config.from_pretrained(tmp_path)


def test_saving_over_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="file"):
        quintet.T5Config().save_pretrained(path)
    assert path.read_text() == "precious"
