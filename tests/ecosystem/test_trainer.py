"""transformers' Seq2SeqTrainer (accelerate underneath) trains quintet's model as it does the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

import quintet

from ..model.reference import make_pair

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

PAIRS = [(f"the house is {number}", f"das Haus {number * 3}") for number in range(16)]


def trained(model: Any, tokenizer: Any, folder: Path) -> tuple[list[float], list[Any]]:
    """The losses of a few steps, and what the trained model predicts."""
    transformers.set_seed(0)
    rows = [dict(tokenizer(source, text_target=target)) for source, target in PAIRS]
    arguments = Seq2SeqTrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        max_steps=6,
        logging_steps=1,
        save_strategy="no",
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
        predict_with_generate=True,
        generation_max_length=8,
        disable_tqdm=True,
        seed=3,
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows[:6],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    losses.append(trainer.evaluate()["eval_loss"])
    return losses, trainer.predict(rows[:4]).predictions.tolist()


def test_it_trains_and_predicts_as_the_reference(shared: Path, tmp_path: Path) -> None:
    pair = make_pair("ForConditionalGeneration", "t5", "sdpa", vocab_size=32128, dropout_rate=0.0)
    vocabulary = shared / "tokenizers" / "t5"
    ours = trained(pair.ours, quintet.T5TokenizerFast.from_pretrained(vocabulary), tmp_path)
    theirs = trained(pair.theirs, transformers.T5TokenizerFast.from_pretrained(vocabulary), tmp_path)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-3)
    assert ours[0][-1] < ours[0][0]
    assert ours[1] == theirs[1]
