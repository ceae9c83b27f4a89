"""What a run shows of itself: the line on a terminal, the report, TensorBoard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from quintet.training.display import Display
from quintet.training.evaluation import Sample
from quintet.training.logs import LOG, read_log
from quintet.training.loop import Step, make_step
from quintet.training.report import REPORT, curve, render
from quintet.training.running import run_training
from quintet.training.throughput import Work, measured_peak

from .runs import config_of, new_run


def step_of(source_tokens: int, target_tokens: int) -> Step:
    return Step(torch.tensor(1.0), source_tokens, target_tokens, 1.0, 1e-3)


def test_work_is_what_torch_counts(tmp_path: Path) -> None:
    """Without attention's products, which torch counts as batched ones, and without padding."""
    still = {"config_overrides": {"dropout_rate": 0.0, "num_decoder_layers": 3}}
    run = new_run(tmp_path, **still)
    rows = next(run.batches)
    longest = max(len(row["input_ids"]) for row in rows)
    rows = [row for row in rows if len(row["input_ids"]) == longest]
    rows = [row for row in rows if len(row["labels"]) == len(rows[0]["labels"])]
    run.network.forward = lambda batch, normalizer: reference_loss(run, batch)  # type: ignore[method-assign]
    with FlopCounterMode(display=False) as counter:
        step = make_step(run, [rows])
    counted = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counted.items() if "bmm" not in str(operation))
    # The first layers' inputs are embeddings; their gradient is wanted too, so nothing is left out.
    assert Work(run.model).of(step) == products


def reference_loss(run: Any, batch: dict[str, torch.Tensor]) -> Any:
    """The model's own loss: the fused one is no operation that torch can count."""
    from quintet.training.loss import Loss

    run.model.set_attn_implementation("eager")
    loss = run.model(**batch).loss
    return Loss(loss, loss.detach() * batch["labels"].numel(), batch["labels"].numel())


def test_the_peak_is_a_speed() -> None:
    assert 1e8 < measured_peak(torch.device("cpu"), torch.float32) < 1e15


def test_plain_lines_where_nobody_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"eval_steps": 4, "logging_steps": 2, "max_steps": 5, "max_eval_samples": 4}
    run_training(config_of(tmp_path, **options), False, Display)
    lines = capsys.readouterr().err.splitlines()
    line = r"step {} of 5: loss \d\.\d{{3}}, [\d,]+ tokens/s, \d+% of peak, 0:00:\d\d left"
    held_out = r"step {}, held out: loss [\d.]+, exact_match 0( \(the best so far\))?"
    expected = [line.format(1), line.format(2), line.format(4), held_out.format(4), held_out.format(5)]
    assert len(lines) == len(expected)
    assert all(re.fullmatch(pattern, found) for pattern, found in zip(expected, lines, strict=True)), lines


def test_a_curve_shows_every_point() -> None:
    figure = ElementTree.fromstring(curve("a <b>", [(1, 4.0), (11, 2.0), (21, 3.0)]))
    assert figure.findtext("figcaption") == "a <b>"
    points = [tuple(map(float, one.split(","))) for one in figure.find(".//polyline").get("points").split()]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x2 - x1 == pytest.approx(x3 - x2)
    assert x2 > x1
    assert y2 - y1 == pytest.approx(2 * (y2 - y3))
    assert y2 > y1  # downwards
    assert [title.text for title in figure.iter("title")] == ["step 1: 4", "step 11: 2", "step 21: 3"]
    assert {text.text for text in figure.iter("text")} == {"4", "2", "step 1", "21"}


@pytest.mark.parametrize("points", [[(1, 2.0)], [(1, 2.0), (2, 2.0)]])
def test_curves_of_one_value(points: list[tuple[int, float]]) -> None:
    assert "nan" not in curve("loss", points)


def test_the_report_is_whole(tmp_path: Path) -> None:
    run = run_training(config_of(tmp_path, eval_steps=3, max_eval_samples=4))
    page = (tmp_path / "run" / REPORT).read_text(encoding="utf-8")
    for name in ("loss", "eval_loss", "eval_exact_match", "learning_rate", "tokens_per_second"):
        assert f"<figcaption>{name}</figcaption>" in page
    assert page.count("<td>spell: ") == 4
    assert "<td>per_device_train_batch_size</td><td>8</td>" in page
    assert not re.search(r"https?://|src=|href=|@import", page)
    sample = Sample("<script>", ["a & b"], "</td>")
    page = render(run, read_log(tmp_path / "run"), [sample])
    assert "<td>&lt;script&gt;</td><td>&lt;/td&gt;</td><td>a &amp; b</td>" in page


def test_a_log_cut_short_is_read_to_its_last_line(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(json.dumps({"step": 1}) + '\n{"step": ')
    assert read_log(tmp_path) == [{"step": 1}]
    assert read_log(tmp_path / "elsewhere") == []


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_training(config_of(tmp_path, report_to="tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = [(record["step"], record["loss"]) for record in read_log(tmp_path / "run")]
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss in logged]
