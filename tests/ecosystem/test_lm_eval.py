"""lm-eval: its harness scores and generates with quintet's model as with the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import quintet

SKY = "What color is the sky?"
ANSWERS = ["red", "blue", "a rather dark green"]


def requests(kind: str, *arguments: Any) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=argument, idx=0) for argument in arguments]


def test_scores_and_answers(shared: Path) -> None:
    folder = str(shared / "models" / "flan-t5-small-title")
    scores, texts = [], []
    for library in (quintet, transformers):
        model = library.T5ForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float32)
        harness = HFLM(pretrained=model, tokenizer=folder, backend="seq2seq", batch_size=2)
        asked = requests("loglikelihood", *((SKY, answer) for answer in ANSWERS))
        scores.append([score for score, _ in harness.loglikelihood(asked, disable_tqdm=True)])
        house = ("translate English to German: The house is wonderful.", {"until": ["."], "max_gen_toks": 20})
        texts.append(harness.generate_until(requests("generate_until", house), disable_tqdm=True))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert texts[0] == texts[1] == ["Das Haus ist wunderbar"]
