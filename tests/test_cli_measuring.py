"""`score`, `bench` and `attention`: their numbers beside the reference's, and what they refuse."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from typer.testing import CliRunner

import quintet
from quintet.cli.app import app
from quintet.cli.attention import _write_html, _write_png
from quintet.cli.bench import _report, processor
from quintet.cli.failures import Failure
from quintet.cli.score import Question, _questions

from .test_cli import HOUSE, PROGRAM, SKY
from .test_cli_commands import output, refusal

needs_program = pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "flan-t5-small-title"


@pytest.fixture(scope="module")
def reference(model: Path) -> Any:
    return transformers.T5ForConditionalGeneration.from_pretrained(model, torch_dtype=torch.float32)


def forward(reference: Any, model: Path, source: str, target: str) -> tuple[Any, torch.Tensor, list[str]]:
    """The reference's output with attentions, the target's ids, and their pieces."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    labels = tokenizer(target, return_tensors="pt").input_ids
    with torch.no_grad():
        found = reference(**tokenizer(source, return_tensors="pt"), labels=labels, output_attentions=True)
    return found, labels, tokenizer.convert_ids_to_tokens(labels[0])


# -- what they share

COMMANDS = [
    (["score", SKY, "red", "-m"], "shorten the texts, or lower --batch-size"),
    (["score", SKY, "red", "--batch-size", "1", "-m"], "shorten the texts"),
    (["bench"], "lower --batch-sizes, --source-length or --new-tokens"),
    (["attention", SKY, "-o", "map.html", "-m"], "shorten the text"),
]


@pytest.mark.parametrize(("command", "advice"), COMMANDS, ids=[" ".join(command) for command, _ in COMMANDS])
def test_precision_is_heard_and_short_memory_advised_on(
    command: list[str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model is loaded as, and what to do where it does not fit: each command has options of its own."""
    asked = []

    def load(*arguments: Any) -> None:
        asked.append(arguments)
        raise MemoryError

    quintet.ByT5Tokenizer().save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules[f"quintet.cli.{command[0]}"], "load_text_to_text", load)
    for chosen, loaded in (([], ("float32", None)), (["--precision", "int8"], ("bfloat16", "int8"))):
        result = CliRunner().invoke(app, [*command, str(tmp_path), *chosen])
        assert (result.exit_code, result.stderr) == (1, f"quintet: not enough memory: {advice}\n")
        assert asked.pop() == (str(tmp_path), "cpu", *loaded)


# -- score


@needs_program
def test_score_reads_json_lines(model: Path, reference: Any, tmp_path: Path) -> None:
    """The answers of each line, the best first, with each piece's log-probability."""
    lines = [{"q": SKY, "a": ["red", "blue"]}, {"q": HOUSE, "a": "Das Haus ist wunderbar."}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ("--input", tmp_path / "in.jsonl", "--source-key", "q", "--target-key", "a", "--batch-size", "1")
    records = [json.loads(line) for line in output("score", *asked, "-m", model, "--json").splitlines()]
    assert [record["target"] for record in records] == ["blue", "red", "Das Haus ist wunderbar."]
    for record in records:
        found, labels, pieces = forward(reference, model, record["source"], record["target"])
        expected = found.logits[0].log_softmax(-1).gather(-1, labels[0][:, None])[:, 0].tolist()
        assert [token["piece"] for token in record["tokens"]] == pieces
        assert [token["log_prob"] for token in record["tokens"]] == pytest.approx(expected, abs=1e-3)
        assert record["log_prob"] == pytest.approx(sum(expected), abs=1e-3)


def test_questions_of_the_command_line() -> None:
    assert _questions("s", ["a", "b"], None, "source", "target") == [Question("s", ["a", "b"])]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"target": "a"}', "in.jsonl, line 2 has no 'source'"),
        ('{"source": "s"}', "in.jsonl, line 2 has no 'target'"),
        ('"text"', "in.jsonl, line 2 has no 'source'"),
        ('{"source": 1, "target": "a"}', "line 2: 'source' must be a text, got 1"),
        ('{"source": "s", "target": []}', r"line 2: 'target' must be a text or a list of texts, got \[\]"),
        ('{"source": "s", "target": ["a", 7]}', "line 2: 'target' must be a text or a list of texts"),
    ],
)
def test_a_line_that_is_no_question_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(f'{{"source": "s", "target": "a"}}\n{line}\n')
    with pytest.raises(Failure, match=message):
        _questions(None, None, tmp_path / "in.jsonl", "source", "target")


@pytest.mark.parametrize(
    ("source", "targets", "name", "message"),
    [
        (None, None, None, "give a source and its targets, or --input"),
        ("s", None, None, "give a source and its targets, or --input"),
        ("s", ["a"], "in.jsonl", "or --input, not both"),
        (None, None, "in.txt", r"--input must end in \.jsonl or \.ndjson"),
    ],
)
def test_one_source_of_questions(source: Any, targets: Any, name: str | None, message: str) -> None:
    with pytest.raises(Failure, match=message):
        _questions(source, targets, None if name is None else Path(name), "source", "target")


# -- bench


@needs_program
def test_bench_compares_dtypes(model: Path) -> None:
    asked = ("--dtype", "float32", "--dtype", "bfloat16", "--new-tokens", "2", "--source-length", "4", "--rounds", "1")
    facts = json.loads(output("bench", model, *asked, "--batch-sizes", "2,1", "--json"))
    found = [(row["batch_size"], row["dtype"]) for row in facts["results"]]
    assert found == [(2, "float32"), (2, "bfloat16"), (1, "float32"), (1, "bfloat16")]
    assert facts["setting"] == "4 source and 2 new tokens, 1 beam"
    assert facts["machine"].startswith(processor())
    assert all(row["first_token_ms"] > 0 for row in facts["results"])


@needs_program
def test_bench_compares_precisions(model: Path) -> None:
    asked = ("--precision", "int8", "--precision", "fp32", "--new-tokens", "2", "--rounds", "1", "--batch-sizes", "1")
    facts = json.loads(output("bench", model, *asked, "--json"))
    found = [(row["quantization"], row["dtype"]) for row in facts["results"]]
    assert found == [("int8", "bfloat16"), (None, "float32")]


def test_the_table_of_bench_names_the_rounding() -> None:
    row = {"batch_size": 1, "tokens_per_second": 2.0, "first_token_ms": 3.0, "next_token_ms": 4.0, "dtype": "bfloat16"}
    rows = [{**row, "quantization": "int4"}, {**row, "quantization": None}]
    console = Console(width=90, record=True)
    console.print(_report({"model": "m", "machine": "here", "setting": "so", "results": rows}))
    lines = console.export_text().splitlines()
    assert [line.split("│")[2].strip() for line in lines if "bfloat16" in line] == ["int4, bfloat16", "bfloat16"]


@needs_program
def test_bench_refuses_a_dtype_before_it_measures_the_others() -> None:
    message = refusal("bench", "no/such/folder", "--dtype", "float32", "--dtype", "float8")
    assert "dtype must be one of float32" in message


LSCPU = """Architecture:  aarch64
Vendor ID:       ARM
Model name:      {name}
Flags:           fp asimd: evtstrm
"""


@pytest.mark.parametrize(
    ("system", "said", "expected"),
    [
        ("Linux", LSCPU.format(name="Neoverse-N1"), "Neoverse-N1"),
        ("Linux", LSCPU.format(name="-"), "aarch64"),
        ("Linux", "", "aarch64"),
        ("Linux", None, "aarch64"),
        ("Darwin", "Apple M2 Pro\n", "Apple M2 Pro"),
        ("Windows", None, "aarch64"),
    ],
)
def test_processors_are_named(system: str, said: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system's own program; by the architecture where it says nothing or is not there."""

    def answer(command: list[str], **options: Any) -> Any:
        if said is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, stdout=said)

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor() == expected


# -- attention


@needs_program
@pytest.mark.parametrize("choice", [(), ("--layer", "3", "--head", "2")], ids=" ".join)
def test_attention_draws_the_weights(choice: tuple[str, ...], model: Path, reference: Any, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    output("attention", SKY, "-m", model, "-o", page, "--target", "Das Haus", *choice)
    found, _, _ = forward(reference, model, SKY, "Das Haus")
    weights = torch.cat(found.cross_attentions)
    weights = weights[2] if choice else weights.mean(0)
    weights = weights[1] if choice else weights.mean(0)
    drawn = [float(weight) for weight in re.findall(r'title="([\d.]+)"', page.read_text(encoding="utf-8"))]
    assert drawn == pytest.approx(weights.flatten().tolist(), abs=1e-3)


@needs_program
def test_attention_refuses_before_the_model_is_loaded(tmp_path: Path) -> None:
    nowhere = ("-m", "no/such/folder", "-o")
    assert "cannot write" in refusal("attention", SKY, *nowhere, tmp_path / "no" / "map.html")
    assert "--head needs --layer" in refusal("attention", SKY, *nowhere, tmp_path / "map.html", "--head", "1")


@needs_program
def test_attention_has_no_such_head(model: Path, tmp_path: Path) -> None:
    asked = ("-m", model, "-o", tmp_path / "map.html", "--layer", "1", "--head", "7")
    assert "--head must be from 1 to 6, got 7" in refusal("attention", SKY, *asked)
    assert not (tmp_path / "map.html").exists()


def test_the_largest_weight_is_the_darkest(tmp_path: Path) -> None:
    _write_html(tmp_path / "map.html", [[0.1, 0.2], [0.0, 0.05]], ["a", "b"], ["c", "d"], "<caption>")
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert re.findall(r"/ ([\d.]+)\)", page) == ["0.500", "1.000", "0.000", "0.250"]
    assert "&lt;caption&gt;; the darkest is 0.200" in page


def test_a_dollar_is_no_mathematics(tmp_path: Path) -> None:
    """matplotlib reads what is between two dollars as a formula, and fails on one that is none."""
    pytest.importorskip("matplotlib")
    wrong = r"$\no{$"
    _write_png(tmp_path / "map.png", [[0.2, 0.8]], [wrong, "b"], [wrong], wrong)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
