"""Text to text beside the reference's pipeline, on a trained checkpoint; both decode greedily.

Beams and samples are in `test_generation_options`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import quintet

Pipes = Callable[..., tuple[Any, Any]]

GREEDY = {"num_beams": 1, "do_sample": False}
SHORT = {"max_new_tokens": 8}
PARAMETERS = {
    "summarization": {"prefix": "summarize: ", "max_length": 200},
    "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 300},
}
TEXTS = [
    "The house is wonderful.",
    "Studies have shown that owning a dog is good for you, and that the dog is of the same opinion.",
    "",
    "What color is the sky?",
]
RESULT_KEYS = {
    "text2text-generation": "generated_text",
    "summarization": "summary_text",
    "translation_en_to_de": "translation_text",
}


def copy_with(folder: Path, checkpoint: Path, file: str = "config.json", **values: Any) -> Path:
    """The checkpoint with other values in a JSON file."""
    for path in checkpoint.iterdir():
        if path.name != file:
            (folder / path.name).symlink_to(path)
    changed = json.loads((checkpoint / file).read_text(encoding="utf-8")) | values
    (folder / file).write_text(json.dumps(changed), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def with_tasks(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with the configuration's tasks, as T5's own checkpoints have them."""
    return copy_with(tmp_path_factory.mktemp("tasks"), checkpoint, task_specific_params=PARAMETERS)


@pytest.fixture(scope="module")
def pipes(with_tasks: Path) -> Pipes:
    """For a task, quintet's pipeline and the reference's, over models that are loaded once."""
    ours = quintet.T5ForConditionalGeneration.from_pretrained(with_tasks)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(with_tasks)
    tokenizer = quintet.T5TokenizerFast.from_pretrained(with_tasks)
    their_tokenizer = transformers.T5TokenizerFast.from_pretrained(with_tasks)

    def make(task: str, limit: dict[str, int] = SHORT) -> tuple[Any, Any]:
        theirs.config.task_specific_params = json.loads(json.dumps(PARAMETERS))  # its pipeline takes the prefix out
        return (
            quintet.pipeline(task, model=ours, tokenizer=tokenizer, **GREEDY, **limit),
            transformers.pipeline(task, model=theirs, tokenizer=their_tokenizer, **GREEDY, **limit),
        )

    return make


# -- the reference's results


@pytest.mark.parametrize("task", RESULT_KEYS)
def test_results(task: str, pipes: Pipes) -> None:
    ours, theirs = pipes(task)
    results = ours(TEXTS)
    assert results == theirs(TEXTS)
    assert [list(result) for result in results] == [[RESULT_KEYS[task]]] * len(TEXTS)
    assert ours(TEXTS[0]) == theirs(TEXTS[0]) == results[:1]
    assert ours(TEXTS[:1]) == theirs(TEXTS[:1]) == results[:1]
    assert ours(TEXTS, batch_size=3) == results
    streamed = (list(pipe(text for text in TEXTS[:2])) for pipe in (ours, theirs))
    assert next(streamed) == next(streamed) == [[result] for result in results[:2]]


def test_the_prefix_of_a_task_is_used(pipes: Pipes) -> None:
    assert pipes("translation_en_to_de")[0](TEXTS[0]) == [{"translation_text": "Das Haus ist wunderbar."}]
    plain = pipes("text2text-generation")[0]
    assert plain("translate English to German: " + TEXTS[0]) == [{"generated_text": "Das Haus ist wunderbar."}]


def test_the_prefix_of_the_configuration_is_used_where_the_task_has_none(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pipes("text2text-generation")
    for pipe in (ours, theirs):
        monkeypatch.setattr(pipe.model.config, "prefix", "translate English to German: ", raising=False)
    ours = quintet.pipeline(model=ours.model, tokenizer=ours.tokenizer, **GREEDY)
    theirs = transformers.pipeline("text2text-generation", model=theirs.model, tokenizer=theirs.tokenizer)
    assert ours(TEXTS[0]) == theirs(TEXTS[0], **GREEDY) == [{"generated_text": "Das Haus ist wunderbar."}]


def test_a_prefix_is_a_text(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pipes("text2text-generation")
    monkeypatch.setattr(ours.model.config, "prefix", 3)
    with pytest.raises(ValueError, match="prefix for text2text-generation must be a text, got 3"):
        quintet.pipeline(model=ours.model, tokenizer=ours.tokenizer)


def test_a_translation_without_languages_is_the_first_that_the_checkpoint_describes(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pipes("text2text-generation")
    parts = [(quintet, ours, "is done as"), (transformers, theirs, "task was used, instead of")]
    for library, pipe, message in parts:
        with pytest.warns(UserWarning, match=message):
            translator = library.pipeline("translation", model=pipe.model, tokenizer=pipe.tokenizer)
        assert translator.task == "translation_en_to_de"
        assert translator(TEXTS[0], **GREEDY) == [{"translation_text": "Das Haus ist wunderbar."}]
    monkeypatch.setattr(ours.model.config, "task_specific_params", None)
    plain = quintet.pipeline("translation", model=ours.model, tokenizer=ours.tokenizer)
    assert (plain.task, plain.prefix) == ("translation", "")


@pytest.mark.parametrize("options", [{"max_new_tokens": 3}, {"max_new_tokens": 3, "cache_implementation": "static"}])
def test_options_of_generate(options: dict[str, Any], pipes: Pipes) -> None:
    ours, theirs = pipes("translation_en_to_de")
    results = ours(TEXTS, **options)
    assert results == theirs(TEXTS, **options)
    own = quintet.pipeline("translation_en_to_de", model=ours.model, tokenizer=ours.tokenizer, **options, **GREEDY)
    assert own(TEXTS) == results


@pytest.mark.parametrize("limit", [{"max_new_tokens": 3}, {"max_length": 4}])
def test_the_checkpoint_s_own_limit_holds(limit: dict[str, int], checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_with(tmp_path, checkpoint, "generation_config.json", **limit)
    text = "translate English to German: " + TEXTS[0]
    ours = quintet.pipeline(model=folder, **GREEDY)
    assert ours(text) == [{"generated_text": "Das Haus ist"}]
    assert ours(text, max_new_tokens=2) == [{"generated_text": "Das Haus"}]
    if "max_length" in limit:  # max_new_tokens the reference means to obey, by its documentation, but does not
        theirs = transformers.pipeline("text2text-generation", model=str(folder))
        assert ours(text) == theirs(text, **GREEDY)


def test_a_max_length_holds(pipes: Pipes) -> None:
    """In the call, too, where the reference prefers its own 256 new tokens."""
    ours, theirs = pipes("translation_en_to_de")
    unlimited, _ = pipes("translation_en_to_de", limit={})
    assert unlimited(TEXTS[0], max_length=4) == [{"translation_text": "Das Haus ist"}]
    arguments = {"max_length": 4, **GREEDY}
    own = quintet.pipeline("text2text-generation", model=ours.model, tokenizer=ours.tokenizer, **arguments)
    reference = transformers.pipeline(
        "text2text-generation", model=theirs.model, tokenizer=theirs.tokenizer, **arguments
    )
    assert own(TEXTS) == reference(TEXTS)
    assert own("translate English to German: " + TEXTS[0]) == [{"generated_text": "Das Haus ist"}]


def test_a_generation_configuration_for_one_call(pipes: Pipes) -> None:
    ours, _ = pipes("translation_en_to_de")
    plain = quintet.pipeline("translation_en_to_de", model=ours.model, tokenizer=ours.tokenizer)
    config = quintet.GenerationConfig(max_new_tokens=2, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0)
    assert plain(TEXTS[0], generation_config=config) == [{"translation_text": "Das Haus"}]


def test_long_answers_are_not_cut_at_generate_s_default(pipes: Pipes) -> None:
    ours, theirs = pipes("text2text-generation", limit={})
    text = "translate English to German: The house is wonderful, the garden is large, "
    text += "and the children play with the dog of the neighbours."
    answer = ours(text)[0]["generated_text"]
    assert answer == theirs(text)[0]["generated_text"]
    assert len(ours.tokenizer(answer).input_ids) > 21


def test_truncation(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pipes("translation_en_to_de")
    for pipe in (ours, theirs):
        monkeypatch.setattr(pipe.tokenizer, "model_max_length", 9)
    results = ours(TEXTS, truncation=True)
    assert results == theirs(TEXTS, truncation=True)
    assert results != ours(TEXTS)


def test_ids_instead_of_texts(pipes: Pipes) -> None:
    """A batch leaves no padding in them."""
    ours, theirs = pipes("translation_en_to_de")
    options = {"return_tensors": True, "return_text": True}
    expected = theirs(TEXTS, **options)
    for size in (1, 4):
        for one, other in zip(ours(TEXTS, batch_size=size, **options), expected, strict=True):
            assert list(one) == list(other) == ["translation_token_ids"]
            assert torch.equal(one["translation_token_ids"], other["translation_token_ids"])


def test_spaces_before_punctuation(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pipes("text2text-generation")
    ids = torch.tensor([[0, 37, 3, 6, 582, 3, 55, 1]])  # "The , President !"
    for pipe in (ours, theirs):
        monkeypatch.setattr(pipe.model, "generate", lambda *_, **__: ids)
    for value in (True, False, None):
        texts = [pipe("a", clean_up_tokenization_spaces=value) for pipe in (ours, theirs)]
        assert texts[0] == texts[1]
    assert ours("a", clean_up_tokenization_spaces=True) != ours("a", clean_up_tokenization_spaces=False)


def test_stop_sequence(pipes: Pipes) -> None:
    ours, theirs = pipes("translation_en_to_de")
    assert ours(TEXTS[:1], stop_sequence="ist") == theirs(TEXTS[:1], stop_sequence="ist")
    assert ours(TEXTS[0], stop_sequence="ist") == [{"translation_text": "Das Haus ist"}]
    with pytest.warns(UserWarning, match="has 2 tokens: answers end at the first of them"):
        result = ours(TEXTS[0], stop_sequence="ist wunderbar")
    with pytest.warns(UserWarning, match="multiple token sequence"):
        assert theirs(TEXTS[0], stop_sequence="ist wunderbar") == result
    with pytest.raises(ValueError, match="stop_sequence must be a text of at least one token"):
        ours(TEXTS[0], stop_sequence="")


def test_languages_change_nothing(pipes: Pipes) -> None:
    ours, theirs = pipes("translation_en_to_de")
    languages = {"src_lang": "en", "tgt_lang": "fr"}
    assert ours(TEXTS[:1], **languages) == theirs(TEXTS[:1], **languages) == ours(TEXTS[:1])


def test_texts_stream(pipes: Pipes) -> None:
    ours, _ = pipes("translation_en_to_de")
    read: list[str] = []
    answers = ours.stream((read.append(text) or text for text in TEXTS), batch_size=2)
    assert next(answers) == "Das Haus ist wunderbar."
    assert read == TEXTS[:2]
    assert list(answers) == [result["translation_text"] for result in ours(TEXTS[1:])]


# -- what it refuses


@pytest.mark.parametrize("inputs", [None, 3, b"text", {"text": "a"}, ["a", None], [["a"]], ["a", b"b"]])
def test_what_is_no_text(inputs: Any, pipes: Pipes) -> None:
    with pytest.raises(ValueError, match="the input must be a text or a list of texts, got"):
        pipes("summarization")[0](inputs)


def test_unknown_options(pipes: Pipes) -> None:
    ours, theirs = pipes("text2text-generation")
    with pytest.raises((ValueError, TypeError), match="nonsense"):
        ours(TEXTS, nonsense=1)
    with pytest.raises(ValueError, match="nonsense"):
        theirs(TEXTS, nonsense=1)
