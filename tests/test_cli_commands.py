"""The commands beside plain `run`, as the installed program, against the library and the reference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from rich.console import Console

import quintet

from .model.reference import make_pair
from .test_cli import HOUSE, PROGRAM, SKY, answers, complaint, run

pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "flan-t5-small-title"


def output(*arguments: str | Path) -> str:
    """What a command that succeeds prints."""
    result = run(*arguments)
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout.decode("utf-8")


def refusal(*arguments: str | Path) -> str:
    """The one line of a command that fails."""
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (1, b"")
    message = result.stderr.decode("utf-8")
    assert message.count("\n") == 1, message
    return message


# -- run


def test_json_lines_in_and_out(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": HOUSE}) + "\n" + json.dumps({"text": SKY}) + "\n")
    arguments = ("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--json", "--num-beams", "1")
    assert answers("-m", model, *arguments) == []
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [(record["input"], record["result"][0]["generated_text"]) for record in records]
    assert texts == [(HOUSE, "Das Haus ist wunderbar."), (SKY, "blue")]


def test_zero_shot_takes_labels(model: Path) -> None:
    pipe = quintet.pipeline("zero-shot-classification", model=model, dtype="float32")
    expected = pipe("the sky is", candidate_labels=["red", "blue"])
    line = answers("the sky is", "-m", model, "--task", "zero-shot-classification", "--labels", "red, blue")
    assert line == [f"{expected['labels'][0]}\t{expected['scores'][0]:.4f}"]


@pytest.fixture(scope="module")
def classifier(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random classifier of texts with the real tokenizer."""
    folder = tmp_path_factory.mktemp("classifier")
    make_pair("ForSequenceClassification", vocab_size=32128).ours.save_pretrained(folder)
    quintet.AutoTokenizer.from_pretrained(shared / "tokenizers" / "t5").save_pretrained(folder)
    return folder


def test_other_tasks_run(classifier: Path) -> None:
    theirs = transformers.pipeline("text-classification", model=str(classifier), device=-1)(SKY)[0]
    label, score = answers(SKY, "-m", classifier, "--task", "text-classification")[0].split("\t")
    assert label == theirs["label"]
    assert float(score) == pytest.approx(theirs["score"], abs=1e-3)


def test_zero_shot_needs_labels(model: Path) -> None:
    assert "--labels" in complaint(SKY, "-m", model, "--task", "zero-shot-classification")


def test_an_output_that_is_there_stays(model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    assert "--overwrite" in complaint(HOUSE, "-m", model, "--output", kept)
    assert kept.read_text() == "mine"
    nowhere = tmp_path / "no" / "folder.txt"
    assert "folder.txt" in complaint(HOUSE, "-m", model, "--output", nowhere)


@pytest.mark.parametrize("wrong", [("-m", "nobody/nothing"), ("--task", "nonsense"), ("--dtype", "float8")])
def test_a_run_that_fails_before_its_first_answer_leaves_the_file(
    wrong: tuple[str, str], model: Path, tmp_path: Path
) -> None:
    """The old one as it was, even if it was to be replaced, and no new one."""
    kept, new = tmp_path / "kept.txt", tmp_path / "new.txt"
    kept.write_text("mine")
    complaint(HOUSE, "-m", model, "--output", kept, "--overwrite", *wrong)
    assert kept.read_text() == "mine"
    complaint(HOUSE, "-m", model, "--output", new, *wrong)
    assert not new.exists()


def test_an_output_holds_as_many_lines_as_the_input(model: Path, tmp_path: Path) -> None:
    """None for none. A device is written to, and stays."""
    assert answers("-m", model, "--output", tmp_path / "empty.txt", stdin=b"") == []
    assert (tmp_path / "empty.txt").read_bytes() == b""
    assert answers(HOUSE, "-m", model, "--output", "/dev/stdout") == ["Das Haus ist wunderbar."]


def test_what_was_done_stays_when_a_later_line_fails(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(HOUSE) + "\n17\n")
    message = complaint("-m", model, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.txt")
    wrong = "line 2: the input must be a text or a list of texts, got int"
    assert message == f"{tmp_path / 'in.jsonl'}, {wrong} (answers before it, which are written: 1)"
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "Das Haus ist wunderbar.\n"


def test_wrong_json_names_its_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": \n')
    assert "in.jsonl, line 2 is not JSON" in complaint("-m", model, "--input", tmp_path / "in.jsonl")
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    named = ("--input", tmp_path / "in.jsonl", "--column", "words")
    assert "in.jsonl, line 1 has no 'words'" in complaint("-m", model, *named)


def test_a_megabyte_on_one_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("word " * 200_000 + "\n")
    assert "not enough memory: attention of 1 x 200,001 tokens" in complaint(
        "-m", model, "--input", tmp_path / "in.txt"
    )


def test_a_terminal_sees_the_answer_grow(model: Path) -> None:
    """Through a terminal the words come one by one; together they are the answer."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    arguments = [PROGRAM, "run", HOUSE, "-m", model, "--num-beams", "1"]
    with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=follower) as process:
        assert process.wait() == 0
    os.close(follower)
    written = os.read(leader, 4096).decode("utf-8")
    os.close(leader)
    assert written.replace("\r\n", "\n") == "Das Haus ist wunderbar.\n"


def test_ctrl_c_keeps_what_is_done(model: Path, tmp_path: Path) -> None:
    lines = tmp_path / "in.txt"
    lines.write_text(f"{HOUSE}\n" * 1000)
    command = [PROGRAM, "run", "-m", model, "--num-beams", "1", "--input", lines]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate()
    assert (process.returncode, complaints) == (130, b"")
    assert {first, *rest.splitlines(keepends=True)} == {b"Das Haus ist wunderbar.\n"}


# -- score, bench, attention


def test_score_ranks(model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    reference = transformers.T5ForConditionalGeneration.from_pretrained(model, torch_dtype=torch.float32)
    colours, expected = ["red", "green", "blue"], {}
    for colour in colours:
        labels = tokenizer(colour, return_tensors="pt").input_ids
        with torch.no_grad():
            loss = reference(**tokenizer(SKY, return_tensors="pt"), labels=labels).loss
        expected[colour] = -loss.item() * labels.shape[1]
    records = [json.loads(line) for line in output("score", SKY, *colours, "-m", model, "--json").splitlines()]
    assert [record["target"] for record in records] == sorted(colours, key=lambda colour: -expected[colour])
    for record in records:
        assert record["log_prob"] == pytest.approx(expected[record["target"]], abs=1e-3)


@pytest.mark.parametrize("command", [("score", SKY, "red"), ("bench",), ("attention", SKY, "-o", "map.html")])
def test_an_encoder_alone_answers_nothing(command: tuple[str, ...], tmp_path: Path) -> None:
    make_pair("EncoderModel").ours.save_pretrained(tmp_path)
    quintet.ByT5Tokenizer().save_pretrained(tmp_path)
    result = run(*command, *(("-m",) if command[0] != "bench" else ()), tmp_path)
    assert (result.returncode, result.stdout) == (1, b"")
    assert "lacks weights of T5ForConditionalGeneration: decoder." in result.stderr.decode("utf-8")


def test_a_name_is_not_markup() -> None:
    from quintet.cli.bench import _report

    console = Console(width=80, record=True)
    console.print(_report({"model": "m[/b]x", "machine": "here", "setting": "so", "results": []}))
    assert "m[/b]x" in console.export_text()


def test_bench_measures(model: Path) -> None:
    facts = json.loads(output("bench", model, "--batch-sizes", "1,2", "--new-tokens", "4", "--rounds", "1", "--json"))
    assert [row["batch_size"] for row in facts["results"]] == [1, 2]
    assert all(row["tokens_per_second"] > 0 for row in facts["results"])
    assert torch.__version__ in facts["machine"]
    assert "--batch-sizes must be numbers" in refusal("bench", model, "--batch-sizes", "many")


def test_attention_draws(model: Path, tmp_path: Path) -> None:
    text = "translate English to German: <b>The house</b>"
    output("attention", text, "-m", model, "-o", tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    source = quintet.AutoTokenizer.from_pretrained(model)(text)["input_ids"]
    assert page.count("<td") % len(source) == 0
    assert page.count("<td") > 0
    assert "<b>" not in page
    output("attention", text, "-m", model, "-o", tmp_path / "map.png", "--target", "Das Haus", "--layer", "8")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "must end in .png or .html" in refusal("attention", text, "-m", model, "-o", tmp_path / "map.gif")
    assert "--layer must be from 1 to 8" in refusal(
        "attention", text, "-m", model, "-o", tmp_path / "other.html", "--layer", "9"
    )


def test_a_missing_extra_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quintet.cli.attention import _drawing
    from quintet.cli.failures import Failure

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Failure, match=r'pip install "quintet\[plots\]"'):
        _drawing(tmp_path / "map.png")


@pytest.mark.parametrize("command", ["score", "info", "convert", "bench", "attention"])
def test_help_shows_an_example(command: str) -> None:
    assert f"quintet {command} " in output(command, "--help")
