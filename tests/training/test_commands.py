"""Training from the command line, as the installed program."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.main import get_command

import quintet
from quintet.cli.app import app
from quintet.training.config import PretrainingConfig, TrainingConfig
from quintet.training.logs import read_log
from quintet.training.running import run_training
from quintet.training.settings import build, describe

from ..test_cli import PROGRAM, run
from ..test_cli_commands import refusal
from .runs import settings, write_model

pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")

PROSE = "".join(f"The {number} brown foxes jump over {number * 7} lazy dogs and sing.\n" for number in range(300))


def write(folder: Path, **values: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(folder, **values)), encoding="utf-8")
    return path


def output(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode("utf-8")


def test_train_then_resume_then_evaluate(tmp_path: Path) -> None:
    config = write(tmp_path, save_steps=2)
    assert output("train", config, "--max-steps", "2", "--config-overrides", "dropout_rate=0.5") == f"{tmp_path}/run\n"
    again = ("train", config, "--config-overrides", "dropout_rate=0.5")
    assert "holds a run already" in refusal(*again)
    output(*again, "--resume")
    whole = run_training(
        build(
            TrainingConfig,
            settings(tmp_path, output_dir=str(tmp_path / "whole"), config_overrides={"dropout_rate": 0.5}),
        )
    )
    trained = quintet.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in whole.model.state_dict().items())

    choices = ("--split", "validation", "--num-beams", "1", "--limit", "5", "--max-new-tokens", "8")
    answers = tmp_path / "answers.jsonl"
    numbers = json.loads(output("evaluate", tmp_path / "run", "--config", config, *choices, "--output", answers))
    assert set(numbers) == {"loss", "exact_match"}
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert [set(line) for line in lines] == [{"source", "references", "answer"}] * 5
    data = ("--data", tmp_path / "validation_file.jsonl", "--prefix", "spell: ", "--metric", "exact_match")
    assert json.loads(output("evaluate", tmp_path / "run", *data, *choices[2:])) == numbers
    [task] = settings(tmp_path)["tasks"]
    only_trained_on = {"name": "more", "train_file": task["train_file"]}
    config = write(tmp_path, tasks=[only_trained_on, task])
    assert json.loads(output("evaluate", tmp_path / "run", "--config", config, *choices)) == numbers


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    config = write(tmp_path)
    assert "did you mean learning_rate?" in refusal("train", write(tmp_path, learning_rat=1))
    write(tmp_path)
    assert "optim must be one of adafactor" in refusal("train", config, "--optim", "sgd")
    assert "--config-overrides must be NAME=VALUE" in refusal("train", config, "--config-overrides", "d_ff")
    assert "device asks for cuda" in refusal("train", config, "--device", "cuda")
    assert "give --config or --data" in refusal("evaluate", tmp_path / "tiny")
    assert "task digits has no test_file" in refusal("evaluate", tmp_path / "tiny", "--config", config)
    task = settings(tmp_path)["tasks"][0]
    (tmp_path / "bad.jsonl").write_text('{"source": "1", "target": "one"}\n{"source": "2"}\n')
    message = refusal("train", write(tmp_path, tasks=[{**task, "train_file": str(tmp_path / "bad.jsonl")}]))
    assert "bad.jsonl, line 2 has no field 'target'" in message
    (tmp_path / "bad.jsonl").write_text("")
    assert "is empty" in refusal("train", config)


@pytest.mark.parametrize(("command", "cls"), [("train", TrainingConfig), ("pretrain", PretrainingConfig)])
def test_every_setting_is_a_flag(command: str, cls: type) -> None:
    options = {name for one in get_command(app).commands[command].params for name in one.opts}
    wanted = {f"--{one.name.replace('_', '-')}" for one in describe(cls) if one.name != "tasks"}
    assert options == wanted | {"config", "--resume", "--debug"}


def test_pretraining_with_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(PROSE, encoding="utf-8")
    (tmp_path / "shape").mkdir()
    write_model(tmp_path / "shape")
    made = output("tokenizer", "train", tmp_path / "text.txt", "--vocab-size", "90", "-o", tmp_path / "tokenizer")
    assert made == f"{tmp_path}/tokenizer: 190 tokens\n"
    files = ("--train-file", tmp_path / "text.txt", "--validation-file", tmp_path / "text.txt")
    model = ("--config-name", tmp_path / "shape", "--tokenizer-name", tmp_path / "tokenizer")
    length = ("--max-steps", "20", "--per-device-train-batch-size", "4", "--max-source-length", "64")
    steps = ("--logging-steps", "10", "--eval-steps", "20", "--warmup-steps", "5", "--device", "cpu")
    output("pretrain", *files, *model, *length, *steps, "--output-dir", tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert log[-1]["eval_loss"] < log[0]["loss"]
    assert quintet.AutoConfig.from_pretrained(tmp_path / "run").vocab_size == 256  # 190, rounded up to 128s


@pytest.mark.parametrize("objective", ["prefix_lm", "ul2"])
def test_other_objectives(tmp_path: Path, objective: str) -> None:
    (tmp_path / "text.txt").write_text(PROSE, encoding="utf-8")
    (tmp_path / "shape").mkdir()
    values = {
        "config_name": str(write_model(tmp_path / "shape")),
        "output_dir": str(tmp_path / "run"),
        "train_file": str(tmp_path / "text.txt"),
        "objective": objective,
        "max_source_length": 128,
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "logging_steps": 1,
        "device": "cpu",
    }
    run_training(build(PretrainingConfig, values))
    assert len(read_log(tmp_path / "run")) == 3


def test_trimming_keeps_what_a_run_needs(shared: Path, tmp_path: Path) -> None:
    model = shared / "models" / "flan-t5-small-title"
    output("tokenizer", "trim", model, tmp_path / "small", "--config", write(tmp_path))
    text = "spell: 123"
    whole, small = (quintet.AutoTokenizer.from_pretrained(name) for name in (model, tmp_path / "small"))
    assert small.tokenize(text) == whole.tokenize(text)
    assert len(small) < 1000
    sizes = ["--per-device-train-batch-size", "2", "--max-steps", "1", "--device", "cpu"]
    again = write(tmp_path, config_name=None, model_name_or_path=str(tmp_path / "small"))
    output("train", again, *sizes)


def test_the_settings_that_the_readme_shows(shared: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    record = json.dumps({"abstract": "We train a model. It works.", "summary": "A model is trained."}) + "\n"
    for name in ("train.jsonl", "dev.jsonl"):
        (tmp_path / name).write_text(record * 2)
        shown = shown.replace(name, str(tmp_path / name))
    shown = shown.replace("google/flan-t5-small", str(shared / "models" / "flan-t5-small-title"))
    (tmp_path / "config.yaml").write_text(shown)
    few = ("--max-steps", "1", "--per-device-train-batch-size", "1", "--device", "cpu")
    output("train", tmp_path / "config.yaml", *few, "--output-dir", tmp_path / "run")
    assert "eval_rougeL" in read_log(tmp_path / "run")[-1]
