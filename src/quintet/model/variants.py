"""The names of mT5 and UMT5: the same networks, with the configuration class of their checkpoints."""

from __future__ import annotations

from quintet.config import MT5Config, UMT5Config
from quintet.model import heads, task_heads


class MT5Model(heads.T5Model):
    """`T5Model` under the name mT5 checkpoints use."""

    config_class = MT5Config


class MT5ForConditionalGeneration(heads.T5ForConditionalGeneration):
    """`T5ForConditionalGeneration` under the name mT5 checkpoints use."""

    config_class = MT5Config


class MT5EncoderModel(heads.T5EncoderModel):
    """`T5EncoderModel` under the name mT5 checkpoints use."""

    config_class = MT5Config


class MT5ForSequenceClassification(task_heads.T5ForSequenceClassification):
    """`T5ForSequenceClassification` under the name mT5 checkpoints use."""

    config_class = MT5Config


class MT5ForTokenClassification(task_heads.T5ForTokenClassification):
    """`T5ForTokenClassification` under the name mT5 checkpoints use."""

    config_class = MT5Config


class MT5ForQuestionAnswering(task_heads.T5ForQuestionAnswering):
    """`T5ForQuestionAnswering` under the name mT5 checkpoints use."""

    config_class = MT5Config


class UMT5Model(heads.T5Model):
    """`T5Model` under the name UMT5 checkpoints use."""

    config_class = UMT5Config


class UMT5ForConditionalGeneration(heads.T5ForConditionalGeneration):
    """`T5ForConditionalGeneration` under the name UMT5 checkpoints use."""

    config_class = UMT5Config


class UMT5EncoderModel(heads.T5EncoderModel):
    """`T5EncoderModel` under the name UMT5 checkpoints use."""

    config_class = UMT5Config


class UMT5ForSequenceClassification(task_heads.T5ForSequenceClassification):
    """`T5ForSequenceClassification` under the name UMT5 checkpoints use."""

    config_class = UMT5Config


class UMT5ForTokenClassification(task_heads.T5ForTokenClassification):
    """`T5ForTokenClassification` under the name UMT5 checkpoints use."""

    config_class = UMT5Config


class UMT5ForQuestionAnswering(task_heads.T5ForQuestionAnswering):
    """`T5ForQuestionAnswering` under the name UMT5 checkpoints use."""

    config_class = UMT5Config
