"""Fine-tuning a real checkpoint on real texts."""

from __future__ import annotations

from pathlib import Path

from quintet.training.building import build_run
from quintet.training.config import TrainingConfig
from quintet.training.loop import make_step
from quintet.training.parallel import World
from quintet.training.settings import build


def test_summaries_of_papers_become_likelier(shared: Path, tmp_path: Path) -> None:
    """SciTLDR: abstracts, cut to 64 tokens here, and a sentence each. The held-out loss falls within a few steps."""
    data = shared / "data" / "scitldr"
    task = {
        "name": "scitldr",
        "train_file": str(data / "train.jsonl"),
        "validation_file": str(data / "dev.jsonl"),
        "prefix": "summarize: ",
        "target": "{target[0]}",
    }
    values = {
        "model_name_or_path": str(shared / "models" / "flan-t5-small-title"),
        "output_dir": str(tmp_path),
        "tasks": [task],
        "max_source_length": 64,
        "max_target_length": 48,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "eval_steps": 4,
        "max_eval_samples": 12,
        "device": "cpu",
    }
    run = build_run(build(TrainingConfig, values), World())
    assert run.evaluator is not None
    before = run.evaluator(run.model).numbers["loss"]
    run.model.train()
    for _ in range(4):
        make_step(run, [next(run.batches)])
    assert run.evaluator(run.model).numbers["loss"] < before - 0.5
