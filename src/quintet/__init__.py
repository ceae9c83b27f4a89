"""quintet: the T5 family of text-to-text transformers as one small, fast library.

The public names below are loaded when they are first used: `import quintet` itself imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from quintet._version import __version__

_HEADS = (
    "Model",
    "ForConditionalGeneration",
    "EncoderModel",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)

_PROCESSORS = (
    "EncoderNoRepeatNGramLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "HammingDiversityLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
    "VocabLimitLogitsProcessor",
)

_PUBLIC = {
    "config": ("T5Config", "MT5Config", "UMT5Config"),
    "outputs": (
        "ModelOutput",
        "BaseModelOutput",
        "BaseModelOutputWithPastAndCrossAttentions",
        "Seq2SeqModelOutput",
        "Seq2SeqLMOutput",
        "Seq2SeqSequenceClassifierOutput",
        "Seq2SeqQuestionAnsweringModelOutput",
        "TokenClassifierOutput",
        "GenerateEncoderDecoderOutput",
        "GenerateBeamEncoderDecoderOutput",
        "ScoreOutput",
    ),
    "tokenizers": (
        "BatchEncoding",
        "AddedToken",
        "ByT5Tokenizer",
        "MT5Tokenizer",
        "MT5TokenizerFast",
        "T5Tokenizer",
        "T5TokenizerFast",
    ),
    "generation.config": ("GenerationConfig",),
    "generation.processors": _PROCESSORS,
    "generation.phrases": ("Constraint", "DisjunctiveConstraint", "PhrasalConstraint"),
    "generation.stopping": (
        "StoppingCriteria",
        "StoppingCriteriaList",
        "MaxLengthCriteria",
        "MaxTimeCriteria",
        "EosTokenCriteria",
        "StopStringCriteria",
    ),
    "generation.streamers": ("BaseStreamer", "TextStreamer", "TextIteratorStreamer", "AsyncTextIteratorStreamer"),
    "model.cache": ("Cache", "DynamicCache", "EncoderDecoderCache", "StaticCache"),
    "model.pretrained": ("T5PreTrainedModel",),
    "model.heads": ("T5Model", "T5ForConditionalGeneration", "T5EncoderModel"),
    "model.task_heads": ("T5ForSequenceClassification", "T5ForTokenClassification", "T5ForQuestionAnswering"),
    "auto": (
        "AutoConfig",
        "AutoModel",
        "AutoModelForQuestionAnswering",
        "AutoModelForSeq2SeqLM",
        "AutoModelForSequenceClassification",
        "AutoModelForTextEncoding",
        "AutoModelForTokenClassification",
        "AutoTokenizer",
    ),
    "pipelines": (
        "FeatureExtractionPipeline",
        "Pipeline",
        "QuestionAnsweringPipeline",
        "SummarizationPipeline",
        "Text2TextGenerationPipeline",
        "TextClassificationPipeline",
        "TokenClassificationPipeline",
        "TranslationPipeline",
        "ZeroShotClassificationPipeline",
        "pipeline",
    ),
    "quantize": ("QuantizationConfig", "TorchAoConfig"),
    "model.variants": tuple(f"{variant}{head}" for variant in ("MT5", "UMT5") for head in _HEADS),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"quintet has no {name!r}")
    value = getattr(importlib.import_module(f"quintet.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
