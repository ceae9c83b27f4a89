"""The training loop: what it learns, what a step is, when it stops."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import quintet
from quintet.training import loop
from quintet.training.config import check
from quintet.training.logs import read_log
from quintet.training.loop import FAILED_BATCH, NotFiniteError, clipped_gradients, gradients_of, make_step, norm_of
from quintet.training.running import run_training

from .runs import config_of, new_run, same, settings, weights

STILL = {"config_overrides": {"dropout_rate": 0.0}}  # what differs between two runs is then no dropout


class Moves(torch.optim.SGD):
    """An optimiser under which the change of the weights is the gradient."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=1.0)


def gradients_of_a_step(run: Any, drawn: Any) -> dict[str, torch.Tensor]:
    before = weights(run)
    run.optimizer = Moves(run.model.parameters())
    run.learning_rate = lambda step: 1.0
    make_step(run, drawn)
    return {name: before[name] - after for name, after in weights(run).items()}


def test_a_task_is_learned_from_scratch(tmp_path: Path) -> None:
    """The model has never seen the numbers that it is asked for in the end."""
    learning = {"optim": "adamw_scaled", "learning_rate": 3e-2, "lr_scheduler_type": "linear", "warmup_steps": 30}
    length = {"max_steps": 400, "eval_steps": 400, "per_device_train_batch_size": 32}
    run_training(config_of(tmp_path, **STILL, **learning, **length, metric_for_best_model="exact_match"))
    last = read_log(tmp_path / "run")[-1]
    assert last["step"] == 400
    assert last["eval_exact_match"] > 95
    model = quintet.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
    tokenizer = quintet.AutoTokenizer.from_pretrained(tmp_path / "run")
    record = json.loads((tmp_path / "validation_file.jsonl").read_text().splitlines()[0])
    answer = model.generate(**tokenizer("spell: " + record["source"], return_tensors="pt"), max_new_tokens=32)
    assert tokenizer.decode(answer[0], skip_special_tokens=True) == record["target"]


def test_the_gradient_is_that_of_the_reference(tmp_path: Path) -> None:
    run = new_run(tmp_path, **STILL, max_grad_norm=0)
    rows = next(run.batches)
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**run.model.config.to_dict()))
    theirs.load_state_dict(run.model.state_dict())
    batch = run.collate(rows)
    theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss.backward()
    found = gradients_of_a_step(run, [rows])
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_accumulated_batches_count_as_one(tmp_path: Path) -> None:
    """Their targets have different lengths: the mean of the batches' means would be another loss."""
    run = new_run(tmp_path, **STILL, max_grad_norm=0)
    rows = sorted((row for _ in range(4) for row in next(run.batches)), key=lambda example: len(example["labels"]))
    assert len(rows[0]["labels"]) < len(rows[-1]["labels"])
    whole = gradients_of_a_step(run, [rows])
    parts = gradients_of_a_step(new_run(tmp_path, **STILL, max_grad_norm=0), [rows[:5], rows[5:]])
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)


def test_long_gradients_are_shortened(tmp_path: Path) -> None:
    run = new_run(tmp_path, **STILL, max_grad_norm=0.01)
    found = gradients_of_a_step(run, [next(run.batches)])
    norm = torch.stack([gradient.square().sum() for gradient in found.values()]).sum().sqrt()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_scaled", "adafactor"])
def test_optimizers_shorten_gradients_as_torch_does(
    optim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps: too long a gradient, and one that is not."""
    ours, theirs = (new_run(tmp_path, **STILL, optim=optim) for _ in range(2))
    start = weights(ours)
    for longest in (0.01, 1e9):
        rows = next(ours.batches)
        for run in (ours, theirs):
            run.config = replace(run.config, optimizer=replace(run.config.optimizer, max_grad_norm=longest))
        norm = make_step(ours, [rows]).gradient_norm
        with monkeypatch.context() as patched:
            patched.setattr(loop, "divides_gradients", lambda optimizer: False)
            assert make_step(theirs, [rows]).gradient_norm == pytest.approx(norm, rel=1e-6)
        assert norm > 0.01
        moved = distance(weights(theirs), start)
        assert distance(weights(ours), weights(theirs)) < 1e-4 * moved


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum((one[name] - other[name]).square().sum().item() for name in one) ** 0.5


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_scaled", "adafactor"])
def test_bfloat16_gradients_are_shortened_too(optim: str, tmp_path: Path) -> None:
    """Those on a GPU, or that lie otherwise in memory, have another norm computed: it must not be bfloat16."""
    run = new_run(tmp_path, **STILL, optim=optim, dtype="bfloat16", max_grad_norm=0.01)
    start = weights(run)
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter).t().contiguous().t()
    norm = norm_of(gradients_of(run.model))
    with clipped_gradients(run, norm, norm.item()):
        assert run.optimizer.grad_scale.item() == pytest.approx(run.model.num_parameters() ** 0.5 / 0.01, rel=1e-2)
        run.optimizer.step()
    assert run.optimizer.grad_scale is None
    assert distance(weights(run), start) > 0


def test_packed_rows_train_too(tmp_path: Path) -> None:
    packed = {"packing": True, "per_device_train_batch_size": 2, "max_source_length": 48, "max_target_length": 64}
    run = new_run(tmp_path, **STILL, **packed)
    rows = next(run.batches)
    assert max(map(len, rows)) > 1
    step = make_step(run, [rows])
    assert step.target_tokens == sum(len(example["labels"]) for row in rows for example in row)
    loss = step.cross_entropy.item() / step.target_tokens
    one_by_one = make_step(new_run(tmp_path, **STILL), [[example for row in rows for example in row]])
    assert loss == pytest.approx(one_by_one.cross_entropy.item() / one_by_one.target_tokens, rel=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch's compiler imports what torch deprecates
@pytest.mark.parametrize(
    "values",
    [
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"per_device_train_tokens": 512},
        {"attn_implementation": "eager"},
        pytest.param({"torch_compile": True}, marks=pytest.mark.sweep),
    ],
)
def test_options_of_speed_and_memory_keep_the_result(tmp_path: Path, values: dict[str, Any]) -> None:
    plain, other = new_run(tmp_path, **STILL), new_run(tmp_path, **STILL, **values)
    rows = next(plain.batches)
    expected, found = make_step(plain, [rows]), make_step(other, [rows])
    tolerance = 2e-2 if "bf16" in values else 1e-6
    assert found.cross_entropy.item() == pytest.approx(expected.cross_entropy.item(), rel=tolerance)
    assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=tolerance * 2)
    assert {parameter.dtype for parameter in other.model.parameters()} == {torch.float32}


def test_dropout_differs_from_step_to_step_and_not_from_run_to_run(tmp_path: Path) -> None:
    options = {"learning_rate": 0.0, "config_overrides": {"dropout_rate": 0.5}}
    run, again = new_run(tmp_path, **options), new_run(tmp_path, **options)
    rows = next(run.batches)
    first, second = (make_step(run, [rows]).cross_entropy.item() for _ in range(2))
    assert first != second
    assert [make_step(again, [rows]).cross_entropy.item() for _ in range(2)] == [first, second]


def test_the_learning_rate_follows_its_schedule(tmp_path: Path) -> None:
    falls = {"learning_rate": 8e-3, "lr_scheduler_type": "linear", "warmup_steps": 2, "max_steps": 6}
    run_training(config_of(tmp_path, **falls, logging_steps=1))
    rates = [record["learning_rate"] for record in read_log(tmp_path / "run")]
    assert rates == pytest.approx([0, 4e-3, 8e-3, 6e-3, 4e-3, 2e-3])


def test_the_optimiser_takes_the_rate_of_the_step(tmp_path: Path) -> None:
    """A warm-up begins at 0: the first step moves nothing."""
    run = new_run(tmp_path, optim="adamw_torch", warmup_steps=2)
    before = weights(run)
    rows = next(run.batches)
    make_step(run, [rows])
    assert same(weights(run), before)
    make_step(run, [rows])
    moved = (weights(run)["shared.weight"] - before["shared.weight"]).abs().max().item()
    assert moved == pytest.approx(0.5e-4, rel=0.2)  # Adam's first steps have the size of the rate


def test_frozen_parts_stay(tmp_path: Path) -> None:
    run = new_run(tmp_path, freeze=["encoder.block.0", "shared"])
    before = weights(run)
    make_step(run, [next(run.batches)])
    moved = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("encoder.block.0.", "shared")) for name in moved)
    assert any(name.startswith("encoder.block.1.") for name in moved)


def test_pure_bfloat16(tmp_path: Path) -> None:
    run = new_run(tmp_path, dtype="bfloat16", optim="adamw_scaled")
    losses = [make_step(run, [next(run.batches)]) for _ in range(12)]
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.bfloat16}
    first, last = losses[0], losses[-1]
    assert last.cross_entropy.item() / last.target_tokens < first.cross_entropy.item() / first.target_tokens


@pytest.mark.parametrize(("capability", "warns"), [("AVX2", True), ("AVX512", False)])
def test_slow_products_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capability: str, warns: bool
) -> None:
    def warnings() -> list[str]:
        return [record.message for record in caplog.records if "bfloat16" in record.message]

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    new_run(tmp_path)
    assert not warnings()
    new_run(tmp_path, bf16=True)
    assert len(warnings()) == warns


def test_code_of_few_products_is_kept_unless_set_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    monkeypatch.setenv(names[0], "1024")
    monkeypatch.delenv(names[1], raising=False)
    new_run(tmp_path)
    assert [os.environ[name] for name in names] == ["1024", "32"]


def test_what_is_no_number_stops_the_run(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with torch.no_grad():
        run.model.decoder.final_layer_norm.weight[0] = torch.inf
    before = weights(run)
    rows = next(run.batches)
    with pytest.raises(NotFiniteError, match=rf"step 1: .*{FAILED_BATCH}"):
        make_step(run, [rows])
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())
    kept = json.loads((tmp_path / "run" / FAILED_BATCH).read_text(encoding="utf-8"))
    assert kept["step"] == 1
    assert [example["input_ids"] for example in kept["examples"]] == [row["input_ids"].tolist() for row in rows]
    assert kept["examples"][0]["source"].startswith("spell: ")


def test_training_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    """At a learning rate of 0 no evaluation is better than the first."""
    options = {"learning_rate": 0.0, "eval_steps": 2, "early_stopping_patience": 2, "max_steps": 100}
    run = run_training(config_of(tmp_path, **options))
    assert (run.progress.step, run.progress.best_step) == (6, 2)
    assert quintet.AutoConfig.from_pretrained(tmp_path / "run").d_model == 64


def test_the_log_has_means_over_its_intervals(tmp_path: Path) -> None:
    each = run_training(config_of(tmp_path, **STILL, logging_steps=1, learning_rate=0.0))
    fine = read_log(tmp_path / "run")
    (tmp_path / "other").mkdir()
    run_training(config_of(tmp_path, **STILL, logging_steps=3, learning_rate=0.0, output_dir=str(tmp_path / "other")))
    coarse = read_log(tmp_path / "other")
    assert [record["step"] for record in coarse] == [1, 3, 6]
    assert coarse[1]["epoch"] == pytest.approx(3 * 8 / 900)
    assert each.progress.examples == 6 * 8
    tokens = weights_of_steps(tmp_path)
    for last, first, until in ((1, 1, 3), (2, 3, 6)):
        own = slice(first, until)
        mean = sum(r["loss"] * t for r, t in zip(fine[own], tokens[own], strict=True)) / sum(tokens[own])
        assert coarse[last]["loss"] == pytest.approx(mean, rel=1e-5)


def weights_of_steps(folder: Path) -> list[int]:
    """How many target tokens each of the six steps has."""
    run = new_run(folder)
    return [sum(len(example["labels"]) for example in next(run.batches)) for _ in range(6)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config_name": None}, "model_name_or_path .* or config_name"),
        ({"per_device_train_batch_size": None}, "per_device_train_batch_size is missing"),
        ({"packing": True, "per_device_train_tokens": 100}, "per_device_train_tokens is not for packing"),
        ({"dtype": "bfloat16", "bf16": True}, "bf16 is for weights in float32"),
        ({"lora_rank": 4, "freeze": ["encoder"]}, "freeze and lora_rank exclude"),
        ({"lora_rank": 4, "fsdp": True}, "lora_rank and fsdp exclude"),
        ({"early_stopping_patience": 1}, "early_stopping_patience needs eval_steps"),
        ({"tasks": []}, "tasks is missing"),
        ({"tasks": [{"name": "a"}]}, "task a needs a train_file or a dataset_name"),
        ({"tasks": [{"name": "a", "train_file": "x"}] * 2}, "two tasks have one name"),
        ({"tasks": [{"name": "a", "train_file": "x"}], "eval_steps": 1}, "eval_steps needs held-out data"),
        (
            {"tasks": [{"name": "a", "train_file": "x", "rate": 1}, {"name": "b", "train_file": "x"}]},
            "give every task a rate, or none",
        ),
    ],
)
def test_settings_that_contradict_each_other(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(config_of(tmp_path, **values))


def test_wrong_metrics_are_refused_before_training(tmp_path: Path) -> None:
    task = settings(tmp_path)["tasks"][0]
    with pytest.raises(ValueError, match="metric_for_best_model must be one of loss, exact_match; got sacrebleu"):
        new_run(tmp_path, eval_steps=1, metric_for_best_model="sacrebleu")
    with pytest.raises(ValueError, match=r"a metric is one of .* got 'blue'"):
        new_run(tmp_path, eval_steps=1, tasks=[{**task, "metrics": ["blue"]}])
