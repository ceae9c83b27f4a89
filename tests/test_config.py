"""Configurations hold, default, convert and store what the reference's do."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import quintet

FAMILIES = ("T5Config", "MT5Config", "UMT5Config")
VERSIONS = ("transformers_version", "quintet_version")
ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}
# What the published checkpoints say, with the keys of their age that no class declares.
PUBLISHED = {
    "t5-small": (
        "T5Config",
        {
            "architectures": ["T5ForConditionalGeneration"],
            "decoder_start_token_id": 0,
            "model_type": "t5",
            "n_positions": 512,
            "output_past": True,
            "task_specific_params": {
                "summarization": {"early_stopping": True, "max_length": 200, "num_beams": 4, "prefix": "summarize: "},
                "translation_en_to_de": {"max_length": 300, "prefix": "translate English to German: "},
            },
        },
    ),
    "flan-t5-base": (
        "T5Config",
        {
            "d_ff": 2048,
            "d_model": 768,
            "dense_act_fn": "gelu_new",
            "feed_forward_proj": "gated-gelu",
            "is_gated_act": True,
            "model_type": "t5",
            "num_decoder_layers": 12,
            "num_heads": 12,
            "num_layers": 12,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.23.1",
        },
    ),
    "mt5-small": (
        "MT5Config",
        {
            "d_ff": 1024,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "tokenizer_class": "T5Tokenizer",
        },
    ),
    "umt5-small": (
        "UMT5Config",
        {"scalable_attention": True, "vocab_size": 256384, "tie_word_embeddings": False, "torch_dtype": "float32"},
    ),
    "byt5-small": (
        "T5Config",
        {"vocab_size": 384, "d_model": 1472, "d_ff": 3584, "num_decoder_layers": 4, "num_heads": 6, "num_layers": 12}
        | {"feed_forward_proj": "gated-gelu", "tokenizer_class": "ByT5Tokenizer", "gradient_checkpointing": False},
    ),
    "ul2": (
        "T5Config",
        {
            "d_ff": 16384,
            "d_kv": 256,
            "d_model": 4096,
            "num_heads": 16,
            "num_layers": 32,
            "feed_forward_proj": "gated-silu",
        }
        | {"tie_word_embeddings": False, "dtype": "bfloat16"},
    ),
}


def versionless(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in VERSIONS}


def both(family: str, /, **values: Any) -> tuple[Any, Any]:
    return getattr(quintet, family)(**values), getattr(transformers, family)(**values)


def expected_of(theirs: dict[str, Any]) -> dict[str, Any]:
    """The reference's values; given `id2label` alone, it leaves `label2id` None where quintet turns the names round."""
    if "label2id" in theirs and theirs["label2id"] is None:
        theirs = {**theirs, "label2id": {label: int(index) for index, label in theirs["id2label"].items()}}
    return versionless(theirs)


def assert_same_config(ours: Any, theirs: Any) -> None:
    expected = expected_of(theirs.to_dict())
    assert versionless(ours.to_dict()) == expected
    assert ours.dtype == theirs.dtype
    for key in expected.keys() - {"dtype", "_name_or_path"}:
        assert getattr(ours, key, "absent") == expected[key], key


@pytest.mark.parametrize("family", FAMILIES)
def test_every_default_is_the_reference_s(family: str) -> None:
    assert_same_config(*both(family))


@pytest.mark.parametrize(("family", "values"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_configurations(family: str, values: dict[str, Any]) -> None:
    assert_same_config(*both(family, **values))
    classes = (getattr(quintet, family), getattr(transformers, family))
    assert_same_config(*(each.from_dict(json.loads(json.dumps(values))) for each in classes))


def test_the_configuration_of_a_real_checkpoint(shared: Path) -> None:
    folder = shared / "models" / "flan-t5-small-title"
    ours, theirs = (library.T5Config.from_pretrained(folder) for library in (quintet, transformers))
    assert_same_config(ours, theirs)
    assert ours.dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_aliases(family: str, alias: str, name: str) -> None:
    ours, theirs = both(family, **{alias: 48})
    assert getattr(ours, alias) == getattr(ours, name) == 48
    assert_same_config(ours, theirs)
    for config in (ours, theirs):
        setattr(config, alias, 96)
    assert getattr(ours, name) == 96
    assert_same_config(ours, theirs)
    setattr(ours, name, 32)
    assert getattr(ours, alias) == 32
    assert alias not in ours.to_dict()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depths", [{"num_layers": 3}, {"num_layers": 3, "num_decoder_layers": 5}])
def test_the_decoder_is_as_deep_as_the_encoder_unless_it_is_said(family: str, depths: dict[str, int]) -> None:
    ours, theirs = both(family, **depths)
    assert ours.num_decoder_layers == theirs.num_decoder_layers == depths.get("num_decoder_layers", 3)


@pytest.mark.parametrize(
    ("projection", "activation", "gated"),
    [
        ("relu", "relu", False),
        ("gelu", "gelu", False),
        ("gelu_new", "gelu_new", False),
        ("silu", "silu", False),
        ("gated-gelu", "gelu_new", True),
        ("gated-gelu_new", "gelu_new", True),
        ("gated-relu", "relu", True),
        ("gated-silu", "silu", True),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_projection_names_the_activation(family: str, projection: str, activation: str, gated: bool) -> None:
    """`gated-gelu` means the tanh approximation; every other name is taken as it is written."""
    ours, theirs = both(family, feed_forward_proj=projection)
    assert (ours.dense_act_fn, ours.is_gated_act) == (activation, gated)
    assert_same_config(ours, theirs)


@pytest.mark.parametrize(
    "values",
    [
        {"num_labels": 5},
        {"num_labels": 1},
        {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}},
        {"id2label": {"0": "a", "1": "b", "2": "c"}},
        {"label2id": {"no": 0, "yes": 1}},
        {"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 3},
        {"problem_type": "regression", "num_labels": 1},
        {"problem_type": "single_label_classification"},
        {"problem_type": "multi_label_classification", "num_labels": 7},
    ],
    ids=str,
)
def test_labels(values: dict[str, Any]) -> None:
    ours, theirs = both("T5Config", **values)
    assert ours.num_labels == theirs.num_labels
    assert all(isinstance(key, int) for key in ours.id2label)
    assert_same_config(ours, theirs)
    again = quintet.T5Config.from_dict(json.loads(ours.to_json_string()))
    assert again.id2label == ours.id2label
    assert again.num_labels == ours.num_labels


def test_labels_are_renamed_when_their_number_changes() -> None:
    ours, theirs = both("T5Config", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    for number in (2, 4):
        for config in (ours, theirs):
            config.num_labels = number
        assert_same_config(ours, theirs)
    assert ours.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2", 3: "LABEL_3"}


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [None, "float32", "bfloat16", torch.float16])
def test_the_type_may_be_a_name_or_a_type(key: str, value: Any) -> None:
    ours, theirs = both("T5Config", **{key: value})
    assert ours.dtype == theirs.dtype == ours.torch_dtype
    assert versionless(ours.to_dict()) == versionless(theirs.to_dict())
    assert "torch_dtype" not in ours.to_dict()
    json.loads(ours.to_json_string())


OTHERS = {
    "d_ff": 96,
    "task_specific_params": {"summarization": {"prefix": "summarize: ", "num_beams": 4}},
    "architectures": ["T5Model"],
    "my_own_key": [1, {"nested": None}],
    "n_positions": 512,
    "id2label": {0: "x", 1: "y", 2: "z"},
    "dtype": "bfloat16",
    "bos_token_id": 3,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("values", [{}, OTHERS], ids=["defaults", "others"])
def test_every_form_is_the_reference_s(family: str, values: dict[str, Any]) -> None:
    ours, theirs = both(family, **values)
    assert versionless(ours.to_dict()) == expected_of(theirs.to_dict())
    assert versionless(ours.to_diff_dict()) == expected_of(theirs.to_diff_dict())
    for use_diff in (True, False):
        text = ours.to_json_string(use_diff=use_diff)
        assert text.endswith("}\n")
        expected = json.loads(theirs.to_json_string(use_diff=use_diff))
        assert versionless(json.loads(text)) == expected_of(expected)
        assert list(json.loads(text)) == sorted(json.loads(text))
    assert ours.to_json_string() == ours.to_json_string(use_diff=True)


def test_unknown_keys_are_kept() -> None:
    config = quintet.T5Config(my_own_key={"a": [1]}, n_positions=512)
    assert config.my_own_key == {"a": [1]}
    assert config.to_dict()["n_positions"] == 512
    again = quintet.T5Config.from_dict(json.loads(config.to_json_string()))
    assert again.my_own_key == {"a": [1]}
    config.another = 7
    assert config.to_dict()["another"] == 7


def test_a_dictionary_is_a_copy() -> None:
    config = quintet.T5Config(**OTHERS)
    config.to_dict()["task_specific_params"]["summarization"]["prefix"] = "changed"
    assert config.task_specific_params["summarization"]["prefix"] == "summarize: "


@pytest.mark.parametrize("family", FAMILIES)
def test_from_dict_takes_overrides(family: str) -> None:
    values = {"d_model": 64, "my_own_key": 1, "num_labels": 4}
    results = [
        getattr(library, family).from_dict(dict(values), return_unused_kwargs=True, d_ff=5, num_labels=7, nonsense=3)
        for library in (quintet, transformers)
    ]
    (ours, our_rest), (theirs, their_rest) = results
    assert_same_config(ours, theirs)
    assert our_rest == their_rest == {"nonsense": 3}
    assert (ours.d_ff, ours.num_labels, len(ours.id2label)) == (5, 7, 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_loads_in_both(family: str, tmp_path: Path) -> None:
    ours, theirs = both(family, **OTHERS)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    stored = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "theirs")]
    assert versionless(stored[0]) == expected_of(stored[1])
    for name in ("ours", "theirs"):
        folder = tmp_path / name
        loaded = [getattr(library, family).from_pretrained(folder) for library in (quintet, transformers)]
        assert_same_config(*loaded)
        assert loaded[0].my_own_key == OTHERS["my_own_key"]
        assert loaded[0].id2label == {0: "x", 1: "y", 2: "z"}


def test_from_pretrained_takes_overrides_and_paths(tmp_path: Path) -> None:
    quintet.T5Config(**OTHERS).save_pretrained(tmp_path)
    for path in (tmp_path, str(tmp_path), tmp_path / "config.json"):
        config = quintet.T5Config.from_pretrained(path, d_kv=7, num_labels=5)
        assert (config.d_kv, config.d_ff, config.num_labels) == (7, 96, 5)
    config, rest = quintet.T5Config.from_pretrained(tmp_path, return_unused_kwargs=True, d_kv=9, nonsense=1)
    assert config.d_kv == 9
    assert rest == {"nonsense": 1}


def test_where_it_came_from_is_known() -> None:
    for library in (quintet, transformers):
        assert library.T5Config().name_or_path == ""
        assert library.T5Config(name_or_path="google-t5/t5-small")._name_or_path == "google-t5/t5-small"


def test_equality_and_copies() -> None:
    config = quintet.T5Config(**OTHERS)
    assert config == quintet.T5Config(**OTHERS)
    assert config != quintet.T5Config()
    assert config != quintet.T5Config(**{**OTHERS, "my_own_key": 2})
    for again in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        again.d_model = 7
        assert config.d_model == 512
    assert repr(config) == f"T5Config {config.to_json_string()}"


def test_update_changes_several_fields_at_once() -> None:
    ours, theirs = both("T5Config")
    for config in (ours, theirs):
        config.update({"d_model": 64, "hidden_size": 32, "new_key": "x"})
    assert_same_config(ours, theirs)


def test_the_family_is_named_by_the_class() -> None:
    assert [getattr(quintet, family).model_type for family in FAMILIES] == ["t5", "mt5", "umt5"]
    assert quintet.MT5Config().tie_word_embeddings is False
    assert quintet.UMT5Config().tie_word_embeddings is True
    assert quintet.T5Config().tie_word_embeddings is True


def test_return_dict_decides_what_models_return_by_default() -> None:
    for library in (quintet, transformers):
        assert library.T5Config().use_return_dict is True
        assert library.T5Config(return_dict=False).use_return_dict is False


SIZES = st.integers(1, 4096)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "vocab_size": SIZES.map(lambda size: size + 2),
        "d_model": SIZES,
        "d_kv": SIZES,
        "d_ff": SIZES,
        "num_layers": SIZES,
        "num_decoder_layers": SIZES,
        "num_heads": SIZES,
        "relative_attention_num_buckets": st.integers(2, 32).map(lambda half: 2 * half),
        "relative_attention_max_distance": st.integers(65, 10_000),
        "dropout_rate": st.floats(0, 1),
        "classifier_dropout": st.floats(0, 1),
        "layer_norm_epsilon": st.floats(1e-12, 1e-3),
        "initializer_factor": st.floats(0.01, 10),
        "feed_forward_proj": st.sampled_from(["relu", "gated-gelu", "gated-silu", "gelu"]),
        "tie_word_embeddings": st.booleans(),
        "use_cache": st.booleans(),
        "num_labels": st.integers(1, 20),
        "problem_type": st.sampled_from([None, "regression", "single_label_classification"]),
        "task_specific_params": st.none() | st.dictionaries(st.text(), st.dictionaries(st.text(), st.integers())),
        "my_own_key": st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5),
        "decoder_start_token_id": st.sampled_from([None, 0]),
    },
)


@given(st.sampled_from(FAMILIES), VALUES)
def test_any_configuration_survives_every_form(family: str, values: dict[str, Any]) -> None:
    ours, theirs = both(family, **values)
    assert_same_config(ours, theirs)
    forms = (ours.to_dict(), ours.to_diff_dict(), theirs.to_dict(), theirs.to_diff_dict())
    texts = (ours.to_json_string(), ours.to_json_string(use_diff=False), theirs.to_json_string())
    for form in (*forms, *map(json.loads, texts)):
        again = type(ours).from_dict(versionless(form))
        assert versionless(again.to_dict()) == versionless(ours.to_dict())
