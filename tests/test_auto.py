"""Auto classes: a checkpoint's files decide the class, as in the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import quintet

SIZES = {"vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 2}
FAMILY = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}
AUTO_MODELS = {
    "AutoModel": "Model",
    "AutoModelForSeq2SeqLM": "ForConditionalGeneration",
    "AutoModelForTextEncoding": "EncoderModel",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
    "AutoModelForQuestionAnswering": "ForQuestionAnswering",
}
AUTO_CLASSES = [*AUTO_MODELS, "AutoConfig", "AutoTokenizer"]


def write_config(folder: Path, **values: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each model type, written by the reference."""
    folders = {}
    for model_type, prefix in FAMILY.items():
        config = getattr(transformers, f"{prefix}Config")(**SIZES, decoder_start_token_id=0)
        folders[model_type] = tmp_path_factory.mktemp(model_type)
        getattr(transformers, f"{prefix}ForConditionalGeneration")(config).save_pretrained(folders[model_type])
    return folders


@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_there_are_no_instances(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} has no instances; use {name}\.from_pretrained"):
        getattr(quintet, name)()


# -- configurations


@pytest.mark.parametrize("model_type", FAMILY)
def test_config(model_type: str, checkpoints: dict[str, Path]) -> None:
    config = quintet.AutoConfig.from_pretrained(checkpoints[model_type], dropout_rate=0.3)
    assert type(config) is getattr(quintet, f"{FAMILY[model_type]}Config")
    assert (config.d_model, config.dropout_rate) == (16, 0.3)


@pytest.mark.parametrize("model_type", FAMILY)
def test_config_for_a_model_type(model_type: str) -> None:
    config = quintet.AutoConfig.for_model(model_type, d_model=24)
    reference = transformers.AutoConfig.for_model(model_type, d_model=24)
    assert type(config).__name__ == type(reference).__name__
    assert config.d_model == 24
    assert config.d_ff == reference.d_ff


@pytest.mark.parametrize("name", ["AutoConfig", *AUTO_MODELS])
def test_another_family_is_refused(name: str, tmp_path: Path) -> None:
    write_config(tmp_path, model_type="bert")
    with pytest.raises(ValueError, match=r"model type 'bert' is not of the T5 family; .* t5, mt5, umt5"):
        getattr(quintet, name).from_pretrained(tmp_path)


def test_an_unknown_model_type_is_refused() -> None:
    with pytest.raises(ValueError, match="supported model types: t5, mt5, umt5"):
        quintet.AutoConfig.for_model("bart")


# -- models


@pytest.mark.parametrize("model_type", FAMILY)
@pytest.mark.parametrize("name", AUTO_MODELS)
def test_model(name: str, model_type: str, checkpoints: dict[str, Path]) -> None:
    """The class of the reference's auto class, from a folder and from a configuration."""
    expected = FAMILY[model_type] + AUTO_MODELS[name]
    config = transformers.AutoConfig.from_pretrained(checkpoints[model_type])
    assert type(getattr(transformers, name).from_config(config)).__name__ == expected
    loaded = getattr(quintet, name).from_pretrained(checkpoints[model_type])
    drawn = getattr(quintet, name).from_config(loaded.config)
    for model in (loaded, drawn):
        assert type(model) is getattr(quintet, expected)
        assert model.config.d_model == 16
    assert not loaded.training


def test_config_as_an_object(checkpoints: dict[str, Path]) -> None:
    config = quintet.AutoConfig.from_pretrained(checkpoints["umt5"], num_labels=5)
    model = quintet.AutoModelForSequenceClassification.from_pretrained(checkpoints["umt5"], config=config)
    assert type(model) is quintet.UMT5ForSequenceClassification
    assert model.classification_head.out_proj.out_features == 5


@pytest.mark.parametrize("as_file", [True, False])
def test_config_as_a_path(as_file: bool, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Another folder's configuration decides the class and the values; the weights come from the first."""
    config = quintet.AutoConfig.from_pretrained(checkpoints["umt5"])
    config.dropout_rate = 0.25
    config.save_pretrained(tmp_path)
    place = tmp_path / "config.json" if as_file else tmp_path
    (weights := tmp_path / "weights").mkdir()
    (weights / "model.safetensors").symlink_to(checkpoints["umt5"] / "model.safetensors")
    model = quintet.AutoModelForSeq2SeqLM.from_pretrained(weights, config=place)
    assert type(model) is quintet.UMT5ForConditionalGeneration
    assert model.config.dropout_rate == 0.25


def test_subfolder(checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["mt5"]
    model = quintet.AutoModel.from_pretrained(folder.parent, subfolder=folder.name)
    assert type(model) is quintet.MT5Model


@pytest.mark.parametrize("config", [None, "t5", {"model_type": "t5"}, transformers.T5Config(**SIZES)])
def test_from_config_takes_a_configuration(config: Any) -> None:
    with pytest.raises(ValueError, match="AutoModel needs a configuration of the T5 family, got"):
        quintet.AutoModel.from_config(config)


# -- tokenizers


@pytest.mark.parametrize("vocabulary", ["t5", "mt5", "umt5"])
@pytest.mark.parametrize("use_fast", [True, False, None])
def test_tokenizer(vocabulary: str, use_fast: bool | None, shared: Path) -> None:
    options = {} if use_fast is None else {"use_fast": use_fast}
    tokenizer = quintet.AutoTokenizer.from_pretrained(shared / "tokenizers" / vocabulary, **options)
    assert type(tokenizer) is (quintet.T5Tokenizer if use_fast is False else quintet.T5TokenizerFast)
    assert tokenizer.is_fast is (use_fast is not False)


def test_tokenizer_options_arrive(shared: Path) -> None:
    tokenizer = quintet.AutoTokenizer.from_pretrained(shared / "tokenizers", subfolder="t5", model_max_length=7)
    assert tokenizer.model_max_length == 7


@pytest.mark.parametrize("use_fast", [True, False])
def test_byt5(use_fast: bool, tmp_path: Path) -> None:
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    tokenizer = quintet.AutoTokenizer.from_pretrained(tmp_path, use_fast=use_fast)
    assert type(tokenizer) is quintet.ByT5Tokenizer
    assert tokenizer("hé").input_ids == [107, 198, 172, 1]


@pytest.mark.parametrize("named", ["ByT5Tokenizer", "BertTokenizer"])
def test_the_class_may_be_named_in_config_json(named: str, tmp_path: Path) -> None:
    """As in older checkpoints; the tokenizer's own configuration goes first."""
    write_config(tmp_path, model_type="t5", tokenizer_class=named)
    if named == "ByT5Tokenizer":
        assert type(quintet.AutoTokenizer.from_pretrained(tmp_path)) is quintet.ByT5Tokenizer
        assert type(transformers.AutoTokenizer.from_pretrained(tmp_path)) is transformers.ByT5Tokenizer
    else:
        with pytest.raises(ValueError, match="'BertTokenizer' is not of the T5 family"):
            quintet.AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}', encoding="utf-8")
    assert type(quintet.AutoTokenizer.from_pretrained(tmp_path)) is quintet.ByT5Tokenizer


def test_a_tokenizer_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"'BertTokenizer' is not of the T5 family; .* T5Tokenizer, .* ByT5Tokenizer"):
        quintet.AutoTokenizer.from_pretrained(tmp_path)


def test_an_unreadable_tokenizer_configuration(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": ', encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        quintet.AutoTokenizer.from_pretrained(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"does not hold any of .*tokenizer\.json"):
        quintet.AutoTokenizer.from_pretrained(tmp_path)
