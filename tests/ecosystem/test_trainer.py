"""transformers' Trainer and Seq2SeqTrainer train quintet's model as they do the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer

import quintet

from ..model.reference import make_pair

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

PAIRS = [(f"the house is {number}", f"das Haus {number * 3}") for number in range(16)]


def trainer_of(kind: type[Trainer], model: Any, tokenizer: Any, folder: Path, **options: Any) -> Any:
    rows = [dict(tokenizer(source, text_target=target)) for source, target in PAIRS]
    arguments = Seq2SeqTrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        max_steps=6,
        logging_steps=1,
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
        predict_with_generate=kind is Seq2SeqTrainer,
        prediction_loss_only=kind is Trainer,
        generation_max_length=8,
        disable_tqdm=True,
        seed=3,
        **{"save_strategy": "no", **options},
    )
    transformers.set_seed(0)
    return kind(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows[:6],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def tiny_pair() -> Any:
    return make_pair("ForConditionalGeneration", "t5", "sdpa", vocab_size=32128, dropout_rate=0.0)


@pytest.mark.parametrize("kind", [Trainer, Seq2SeqTrainer])
def test_it_trains_and_predicts_as_the_reference(kind: type[Trainer], shared: Path, tmp_path: Path) -> None:
    pair, found = tiny_pair(), []
    for library, model in ((quintet, pair.ours), (transformers, pair.theirs)):
        tokenizer = library.T5TokenizerFast.from_pretrained(shared / "tokenizers" / "t5")
        trainer = trainer_of(kind, model, tokenizer, tmp_path)
        trainer.train()
        predicted = trainer.predict(trainer.eval_dataset).predictions if kind is Seq2SeqTrainer else None
        found.append((losses(trainer), trainer.evaluate()["eval_loss"], predicted))
    ours, theirs = found
    assert ours[0] == pytest.approx(theirs[0], rel=1e-3)
    assert ours[0][-1] < ours[0][0]
    assert ours[1] == pytest.approx(theirs[1], rel=1e-3)
    if kind is Seq2SeqTrainer:
        assert ours[2].tolist() == theirs[2].tolist()


def test_it_goes_on_from_a_checkpoint(shared: Path, tmp_path: Path) -> None:
    """As pickles: the trainer hands safetensors every name of a shared weight (docs/ecosystem.md)."""
    tokenizer = quintet.T5TokenizerFast.from_pretrained(shared / "tokenizers" / "t5")
    saving = {"save_strategy": "steps", "save_steps": 3, "save_safetensors": False}
    whole = trainer_of(Seq2SeqTrainer, tiny_pair().ours, tokenizer, tmp_path, **saving)
    whole.train()
    resumed = trainer_of(Seq2SeqTrainer, tiny_pair().ours, tokenizer, tmp_path, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(resumed) == losses(whole)
