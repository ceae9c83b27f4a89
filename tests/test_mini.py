"""quintet-mini, the model in the package: it is there, it translates, and it leaves as a checkpoint for everybody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

import quintet
from quintet.cli.app import app
from quintet.hub import SHIPPED, SHIPPED_FOLDER
from quintet.training.data.records import Source
from quintet.training.data.tasks import Task
from quintet.training.metrics import compute_metrics
from quintet.training.sets import references_by_source

from .test_cli import HOUSE, PROGRAM, answers

ROOT = Path(__file__).parents[1]
LARGEST = 40_000_000  # bytes

PREFIXES = {"fr": "translate English to French: ", "de": "translate English to German: "}
BACK = {"fr": "translate French to English: ", "de": "translate German to English: "}
WEATHER, WONDERFUL = "The weather is nice today.", "The house is wonderful."
RIGHT = {
    ("fr", WEATHER): (
        "Il fait beau aujourd'hui.",
        "Il fait bon aujourd'hui.",
        "Il fait beau temps aujourd'hui.",
        "Aujourd'hui, il fait beau.",
        "Aujourd'hui il fait beau.",
        "Le temps est beau aujourd'hui.",
        "Le temps est agréable aujourd'hui.",
        "Le temps est magnifique aujourd'hui.",
        "Le temps est sympa aujourd'hui.",
    ),
    ("fr", WONDERFUL): tuple(
        f"La maison est {word}." for word in ("merveilleuse", "magnifique", "splendide", "superbe", "formidable")
    ),
    ("de", WEATHER): (
        "Das Wetter ist heute schön.",
        "Das Wetter ist heute gut.",
        "Das Wetter ist heute angenehm.",
        "Das Wetter ist schön heute.",
        "Heute ist das Wetter schön.",
        "Heute ist schönes Wetter.",
        "Es ist heute schönes Wetter.",
    ),
    ("de", WONDERFUL): tuple(
        f"Das Haus ist {word}." for word in ("wunderbar", "wundervoll", "wunderschön", "herrlich", "großartig")
    ),
}
"""What a person would take for right."""
WONDERFUL_IN = {"fr": "La maison est merveilleuse.", "de": "Das Haus ist wunderbar."}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return quintet.AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def model() -> Any:
    """Computing with the network's own layers: the native engine rounds activations, too."""
    return quintet.AutoModelForSeq2SeqLM.from_pretrained(SHIPPED, engine="eager")


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `quintet convert` writes of it for other libraries."""
    folder = tmp_path_factory.mktemp("standard")
    result = CliRunner().invoke(app, ["convert", SHIPPED, str(folder), "--dequantize"])
    assert (result.exit_code, result.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def theirs(standard: Path) -> Any:
    model, report = transformers.T5ForConditionalGeneration.from_pretrained(standard, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def held_out(shared: Path, language: str, count: int) -> list[str]:
    """Sources of the test sentences, spread over the file."""
    lines = (shared / "data" / "tatoeba" / f"en-{language}.test.tsv").read_text(encoding="utf-8").splitlines()
    english = list(dict.fromkeys(line.split("\t")[0] for line in lines))
    return [PREFIXES[language] + text for text in english[:: len(english) // count][:count]]


# -- it is there, and it translates


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("engine", ["auto", "eager"])
@pytest.mark.parametrize(("language", "text"), RIGHT)
@pytest.mark.usefixtures("no_hub")
def test_it_translates(language: str, text: str, engine: str, num_beams: int) -> None:
    pipe = quintet.pipeline(model=SHIPPED, dtype="float32", device="cpu", model_kwargs={"engine": engine})
    answer = pipe(PREFIXES[language] + text, num_beams=num_beams)[0]["generated_text"]
    assert answer.replace("’", "'") in RIGHT[language, text]


@pytest.mark.parametrize(("language", "text"), WONDERFUL_IN.items())
@pytest.mark.usefixtures("no_hub")
def test_and_back(language: str, text: str) -> None:
    pipe = quintet.pipeline(f"translation_{language}_to_en", model=SHIPPED, dtype="float32", device="cpu")
    right = tuple(f"The house is {word}." for word in ("wonderful", "marvelous", "magnificent", "gorgeous", "lovely"))
    assert pipe(text)[0]["translation_text"] in right


@pytest.mark.parametrize("prefix", [*PREFIXES.values(), *BACK.values()])
def test_sentences_it_never_saw(prefix: str, model: Any, tokenizer: Any, shared: Path) -> None:
    """100 of the test sentences, measured by all their translations: near its card's score of all of them."""
    name = prefix.removeprefix("translate ").removesuffix(": ")
    card = (SHIPPED_FOLDER / "README.md").read_text(encoding="utf-8")
    [score] = re.findall(rf"\| {name} \| ([\d.]+) \|", card)
    language = next(name for name in PREFIXES if prefix in (PREFIXES[name], BACK[name]))
    pairs = Source([shared / "data" / "tatoeba" / f"en-{language}.test.tsv"], ("english", "other"))
    columns = ("{english}", "{other}") if prefix in PREFIXES.values() else ("{other}", "{english}")
    texts = references_by_source(Task("test", pairs, prefix, *columns))
    sources = list(texts)[:: len(texts) // 100][:100]
    inputs = tokenizer(sources, return_tensors="pt", padding=True)
    answers = tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=64), skip_special_tokens=True)
    found = compute_metrics(["sacrebleu"], answers, [texts[source] for source in sources])["sacrebleu"]
    assert found == pytest.approx(float(score), abs=6)


def test_it_writes_what_the_vocabulary_of_t5_lacks(model: Any, tokenizer: Any) -> None:
    for text in ("Ma sœur", "Ça va ?", "À bientôt !", "Äpfel und Öl"):
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    inputs = tokenizer(PREFIXES["fr"] + "My sister is happy.", return_tensors="pt")
    assert tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True) == "Ma sœur est heureuse."


@pytest.mark.usefixtures("no_hub")
def test_a_task_of_translation_brings_its_prefix() -> None:
    for language in PREFIXES:
        pipe = quintet.pipeline(f"translation_en_to_{language}", model=SHIPPED, dtype="float32", device="cpu")
        answer = pipe(WEATHER)[0]["translation_text"]
        assert answer in RIGHT[language, WEATHER]


@pytest.mark.usefixtures("no_hub")
def test_every_door_knows_its_name(model: Any, tokenizer: Any) -> None:
    assert quintet.T5Config.from_pretrained(SHIPPED) == quintet.AutoConfig.from_pretrained(SHIPPED)
    slow = quintet.T5Tokenizer.from_pretrained(SHIPPED)
    assert type(tokenizer) is quintet.T5TokenizerFast
    assert slow(HOUSE)["input_ids"] == tokenizer(HOUSE)["input_ids"]
    assert len(tokenizer) <= model.config.vocab_size
    inputs = tokenizer(HOUSE, return_tensors="pt")
    direct = quintet.T5ForConditionalGeneration.from_pretrained(SHIPPED, engine="eager")
    assert torch.equal(direct.generate(**inputs), model.generate(**inputs))
    with torch.no_grad():
        states = quintet.T5EncoderModel.from_pretrained(SHIPPED, engine="eager")(**inputs).last_hidden_state
        assert torch.equal(states, model.encoder(**inputs).last_hidden_state)


@pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")
def test_it_is_what_the_program_runs() -> None:
    (answer,) = answers(HOUSE)
    assert answer in RIGHT["de", WONDERFUL]


def test_it_is_what_make_demo_runs() -> None:
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not under `make test`
    command = ["make", "-n", "demo"]
    shown = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1].endswith(f'run "{HOUSE}" --model "{SHIPPED}"')


# -- as a standard checkpoint


def test_the_reference_tokenizes_alike(standard: Path, tokenizer: Any, shared: Path) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(standard)
    texts = [text for language in PREFIXES for text in held_out(shared, language, 100)]
    assert reference(texts)["input_ids"] == tokenizer(texts)["input_ids"]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_the_reference_decodes_it_to_the_same_tokens(
    num_beams: int, model: Any, tokenizer: Any, theirs: Any, shared: Path
) -> None:
    sources = [text for language in PREFIXES for text in held_out(shared, language, 12)]
    inputs = tokenizer(sources, return_tensors="pt", padding=True)
    options = {"num_beams": num_beams, "max_new_tokens": 32}
    assert torch.equal(model.generate(**inputs, **options), theirs.generate(**inputs, **options))


def test_it_holds_the_very_weights(model: Any, theirs: Any) -> None:
    """Which are floats of single precision: another library computes what quintet computes."""
    floats = quintet.AutoModelForSeq2SeqLM.from_pretrained(SHIPPED).dequantize().state_dict()
    assert floats.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, floats[name]), name


# -- what lies in the package


def test_its_files_are_few_and_small() -> None:
    files = {path.name: path.stat().st_size for path in SHIPPED_FOLDER.iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "spiece.model", "tokenizer_config.json"}
    assert files.keys() == {*needed, "README.md"}
    assert sum(files.values()) <= LARGEST


def test_all_of_it_is_packed() -> None:
    """Into the wheel and the sources: the build, asked here, takes both from this list."""
    pytest.importorskip("setuptools")
    code = (
        "from setuptools.dist import Distribution; package = Distribution({'script_name': 'setup.py'})\n"
        "package.parse_config_files(); package.include_package_data = False\n"  # else it writes a list of files
        "build = package.get_command_obj('build_py'); build.ensure_finalized()\n"
        "print(*(name for *_, names in build.data_files for name in names), sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {f"mini/{path.name}" for path in SHIPPED_FOLDER.iterdir()} <= set(run.stdout.splitlines())


def test_its_card_gives_credit_and_scores() -> None:
    card = (SHIPPED_FOLDER / "README.md").read_text(encoding="utf-8")
    for source in ("CC-BY 2.0 FR", "tatoeba.org", "manythings.org/anki", "traceforge-title-model", "MIT", "Apache-2.0"):
        assert source in card
    for prefix in (*PREFIXES.values(), *BACK.values()):
        assert f"`{prefix}`" in card
    assert "[to be filled" not in card, "a blank of the draft is still empty"
