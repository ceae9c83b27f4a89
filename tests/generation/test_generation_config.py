"""GenerationConfig beside the reference's: its defaults, its files, and which of several sources of a value wins."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

import quintet

from ..model.reference import Pair, config_values, make_pair
from .cases import HEAD, lively_pair, source

LIBRARIES = [quintet, transformers]
BOTH = pytest.mark.parametrize(("writer", "reader"), [LIBRARIES, LIBRARIES[::-1]], ids=["ours-theirs", "theirs-ours"])
# Notes of where a configuration comes from.
BOOKKEEPING = {"transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash"}

SETTINGS: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 30, "min_new_tokens": 4, "decoder_start_token_id": 0, "eos_token_id": [1, 7], "pad_token_id": 0},
    {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True, "no_repeat_ngram_size": 3, "max_length": 142},
    {"num_beams": 4, "early_stopping": "never", "num_return_sequences": 3, "renormalize_logits": True},
    {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9, "typical_p": 0.8, "epsilon_cutoff": 0.001},
    {"do_sample": True, "min_p": 0.05, "eta_cutoff": 0.002, "num_return_sequences": 2},
    {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5},
    {"num_beams": 3, "force_words_ids": [[5, 6], [[7], [8, 9]]]},
    {"repetition_penalty": 1.2, "encoder_repetition_penalty": 1.1, "encoder_no_repeat_ngram_size": 4},
    {"bad_words_ids": [[5], [6, 7]], "suppress_tokens": [3, 4], "begin_suppress_tokens": [9]},
    {"sequence_bias": [[[5], 1.5], [[6, 7], -3.0]], "forced_bos_token_id": 4, "forced_eos_token_id": 1},
    {"exponential_decay_length_penalty": [5, 1.1], "remove_invalid_values": True, "min_length": 5},
    {"prompt_lookup_num_tokens": 6, "max_matching_ngram_size": 3, "use_cache": True, "cache_implementation": "static"},
    {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "output_attentions": True},
    {"stop_strings": ["\n", "END"], "max_time": 2.5},
]


def ids(settings: dict[str, Any]) -> str:
    return "-".join(settings) or "nothing"


def values(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in BOOKKEEPING}


def test_every_value_of_ours_has_the_default_of_the_reference() -> None:
    ours, theirs = values(quintet.GenerationConfig()), values(transformers.GenerationConfig())
    assert {name: theirs[name] for name in ours if name in theirs} == {
        name: value for name, value in ours.items() if name in theirs
    }
    used = {name for settings in SETTINGS for name in settings}
    assert used <= set(ours), "a value that users set must be one of the class"


@pytest.mark.parametrize("name", sorted(values(transformers.GenerationConfig())))
def test_every_value_of_the_reference_can_be_read(name: str) -> None:
    """Users read and print them; only the values of what quintet does not do may be missing, when they are not set."""
    theirs = getattr(transformers.GenerationConfig(), name)
    assert getattr(quintet.GenerationConfig(), name, theirs) == theirs


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_values_are_kept_as_the_reference_keeps_them(settings: dict[str, Any]) -> None:
    ours, theirs = (library.GenerationConfig(**settings) for library in LIBRARIES)
    for name, value in settings.items():
        assert getattr(ours, name) == getattr(theirs, name) == value
    for config in (ours, theirs):
        differing = {name: value for name, value in config.to_diff_dict().items() if name not in BOOKKEEPING}
        assert differing == {name: value for name, value in settings.items() if (name, value) != ("use_cache", True)}


@BOTH
@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_files_of_one_are_read_by_the_other(
    writer: ModuleType, reader: ModuleType, settings: dict[str, Any], tmp_path: Path
) -> None:
    written = writer.GenerationConfig(**settings)
    written.save_pretrained(tmp_path)
    read = reader.GenerationConfig.from_pretrained(tmp_path)
    for name, value in settings.items():
        assert getattr(read, name) == value
    known = set(values(written)) & set(values(read))
    assert {name: values(read)[name] for name in known} == {name: values(written)[name] for name in known}


def test_our_own_round_trip_loses_nothing(tmp_path: Path) -> None:
    for number, settings in enumerate(SETTINGS):
        config = quintet.GenerationConfig(**settings)
        config.save_pretrained(tmp_path / str(number))
        again = quintet.GenerationConfig.from_pretrained(tmp_path / str(number))
        assert again == config
        assert again.to_dict() == config.to_dict()


def test_a_file_of_another_name_and_values_on_top(tmp_path: Path) -> None:
    for library in LIBRARIES:
        folder = tmp_path / library.__name__
        library.GenerationConfig(num_beams=4, max_new_tokens=9).save_pretrained(folder, "beams.json")
        assert [path.name for path in folder.iterdir()] == ["beams.json"]
        config = library.GenerationConfig.from_pretrained(folder, "beams.json", num_beams=2)
        assert (config.num_beams, config.max_new_tokens) == (2, 9)
        config, unused = library.GenerationConfig.from_pretrained(
            folder, "beams.json", top_k=3, do_sample=True, nonsense=1, return_unused_kwargs=True
        )
        assert (config.top_k, config.do_sample) == (3, True)
        assert unused.get("nonsense", 1) == 1


def test_from_dict_and_update() -> None:
    for library in LIBRARIES:
        config = library.GenerationConfig.from_dict({"num_beams": 3, "max_length": 40})
        assert (config.num_beams, config.max_length) == (3, 40)
        unused = config.update(num_beams=5, length_penalty=0.2, attention_mask=1, nonsense=None)
        assert unused == {"attention_mask": 1, "nonsense": None}
        assert (config.num_beams, config.length_penalty, config.max_length) == (5, 0.2, 40)


def test_equality_looks_at_the_values() -> None:
    for library in LIBRARIES:
        assert library.GenerationConfig(num_beams=2) == library.GenerationConfig(num_beams=2)
        assert library.GenerationConfig(num_beams=2) != library.GenerationConfig(num_beams=3)
        assert library.GenerationConfig() != 1


def test_it_prints_its_values() -> None:
    for library in LIBRARIES:
        assert re.search(r"GenerationConfig.*\bnum_beams\W+7\b", repr(library.GenerationConfig(num_beams=7)), re.DOTALL)


def test_a_value_of_somebody_elses_in_a_file_is_no_error(tmp_path: Path) -> None:
    """Whisper and others keep values of their own there."""
    (tmp_path / "generation_config.json").write_text('{"num_beams": 4, "house_rule": [1, 2]}')
    for library in LIBRARIES:
        assert library.GenerationConfig.from_pretrained(tmp_path).num_beams == 4


def test_a_folder_without_the_file_is_an_error(tmp_path: Path) -> None:
    for library in LIBRARIES:
        with pytest.raises(OSError, match="generation_config"):
            library.GenerationConfig.from_pretrained(tmp_path)


def test_a_file_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{num_beams: 4")
    for library in LIBRARIES:
        with pytest.raises((OSError, ValueError), match=r"(?i)json"):
            library.GenerationConfig.from_pretrained(tmp_path)


# Old checkpoints keep values of the generation in config.json.

LEFTOVERS = {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "max_length": 9, "no_repeat_ngram_size": 3}


def test_leftovers_of_a_model_config(tmp_path: Path) -> None:
    found = []
    for library in LIBRARIES:
        config = library.T5Config(**config_values(HEAD, "v1.1"), **LEFTOVERS)
        found.append(library.GenerationConfig.from_model_config(config))
    for name in (*LEFTOVERS, "eos_token_id", "pad_token_id", "decoder_start_token_id", "do_sample", "num_beam_groups"):
        assert getattr(found[0], name) == getattr(found[1], name), name
    assert found[0].num_beams == 3


def test_outputs_asked_for_in_a_model_config_come_in_a_result() -> None:
    for library in LIBRARIES:
        config = library.T5Config(**config_values(HEAD, "t5"), output_hidden_states=True)
        made = library.GenerationConfig.from_model_config(config)
        assert (made.output_hidden_states, made.return_dict_in_generate) == (True, True)


def checkpoint(folder: Path, leftovers: dict[str, Any] | None, stored: dict[str, Any] | None) -> Pair:
    """A saved model with leftovers in its config.json and `stored` as its generation_config.json, read by both."""
    make_pair(HEAD, "v1.1", eos_token_id=86).theirs.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **(leftovers or {})}))
    beside = folder / "generation_config.json"
    beside.unlink()
    if stored is not None:
        beside.write_text(json.dumps(stored))
    ours, theirs = (library.T5ForConditionalGeneration.from_pretrained(folder) for library in LIBRARIES)
    return Pair(ours, theirs)


SPECIAL = {"decoder_start_token_id": 0, "eos_token_id": 86, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("leftovers", "stored", "arguments", "beams", "longest"),
    [
        (LEFTOVERS, None, {}, 3, 9),
        (LEFTOVERS, {**SPECIAL, "num_beams": 2, "max_new_tokens": 6}, {}, 2, 7),
        (LEFTOVERS, {**SPECIAL, "max_length": 7}, {}, 1, 7),
        (None, {**SPECIAL, "num_beams": 2, "max_new_tokens": 6}, {}, 2, 7),
        (None, {**SPECIAL, "num_beams": 2, "max_new_tokens": 6}, {"num_beams": 1}, 1, 7),
        (LEFTOVERS, {**SPECIAL, "max_length": 7}, {"max_new_tokens": 3, "num_beams": 4}, 4, 4),
        (None, {**SPECIAL, "decoder_start_token_id": 5, "max_length": 6}, {"decoder_start_token_id": 7}, 1, 6),
    ],
)
def test_the_nearest_value_wins(
    tmp_path: Path,
    leftovers: dict[str, Any] | None,
    stored: dict[str, Any] | None,
    arguments: dict[str, Any],
    beams: int,
    longest: int,
) -> None:
    """Arguments before generation_config.json, and config.json only where there is no such file."""
    pair = checkpoint(tmp_path, leftovers, stored)
    ours, theirs = (model.generate(**source("left"), **arguments) for model in pair)
    assert torch.equal(ours, theirs)
    assert ours.shape[1] <= longest
    explicit = {"num_beams": beams, **({} if "max_new_tokens" in arguments else {"max_new_tokens": longest - 1})}
    assert torch.equal(ours, pair.ours.generate(**source("left"), **{**arguments, **explicit}))
    for name in ("num_beams", "max_length", "max_new_tokens", "length_penalty", "early_stopping", "eos_token_id"):
        assert getattr(pair.ours.generation_config, name) == getattr(pair.theirs.generation_config, name), name


def test_saving_a_model_writes_its_generation_config(tmp_path: Path) -> None:
    pair = checkpoint(tmp_path / "old", None, {**SPECIAL, "num_beams": 2, "max_new_tokens": 6})
    pair.ours.generation_config.num_beams = 5
    pair.ours.save_pretrained(tmp_path / "new")
    for library in LIBRARIES:
        model = library.T5ForConditionalGeneration.from_pretrained(tmp_path / "new")
        assert (model.generation_config.num_beams, model.generation_config.max_new_tokens) == (5, 6)


def test_the_model_generates_as_its_config_says() -> None:
    results = []
    for model in make_pair(HEAD, "umt5"):
        model.generation_config.num_beams = 3
        model.generation_config.num_return_sequences = 2
        model.generation_config.max_new_tokens = 5
        results.append(model.generate(**source()))
    assert torch.equal(*results)
    assert results[0].shape == (12, 6)


def test_a_config_as_an_argument() -> None:
    """Its special tokens, where it has none, are the model's; so is all else that it leaves at the default."""
    results = []
    for library, model in zip(LIBRARIES, make_pair(HEAD, "v1.1", eos_token_id=62), strict=True):
        model.generation_config.length_penalty = 3.0
        config = library.GenerationConfig(num_beams=4, max_new_tokens=9)
        first = model.generate(**source(), generation_config=config)
        results.append((first, model.generate(**source(), generation_config=config, num_beams=2, max_new_tokens=4)))
        assert (config.num_beams, config.max_new_tokens, config.eos_token_id) == (4, 9, None)
        assert (model.generation_config.num_beams, model.generation_config.max_new_tokens) == (1, None)
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    assert (results[0][0] == 62).any()


def test_its_own_special_tokens_come_first() -> None:
    ours, theirs = (
        model.generate(**source(), generation_config=library.GenerationConfig(eos_token_id=7, max_new_tokens=8))
        for library, model in zip(LIBRARIES, lively_pair("umt5"), strict=True)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["nonsense", "num_beans", "max_tokens", "top-k"])
def test_an_unknown_argument_is_refused_by_name(name: str) -> None:
    for model in lively_pair("t5"):
        with pytest.raises((ValueError, TypeError), match=name):
            model.generate(**source(), max_new_tokens=3, **{name: 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"early_stopping": "sometimes"},
        {"max_new_tokens": 0},
        {"cache_implementation": "nonsense"},
        {"num_beams": 2, "num_return_sequences": 3},
        {"num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0},
        {"num_beams": 4, "num_beam_groups": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
        {"num_beams": 4, "force_words_ids": [[5]], "do_sample": True},
    ],
    ids=ids,
)
def test_what_the_reference_refuses_is_refused(settings: dict[str, Any]) -> None:
    """When the values are put together, or at the latest when they are used."""
    names = "|".join(settings)
    with pytest.raises(ValueError, match=names):
        transformers.GenerationConfig(**settings)
    with pytest.raises(ValueError, match=names):
        lively_pair("t5").ours.generate(**source(), generation_config=quintet.GenerationConfig(**settings))
