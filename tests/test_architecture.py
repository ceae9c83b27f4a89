"""The house: which room may import which, what importing loads, how large things may grow, what is public."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import quintet

SOURCE = Path(quintet.__file__).parent

# Each room may import from the rooms before it, and from itself.
ROOMS = [
    "_version",
    "hub",
    "files",
    "config",
    "outputs",
    "checkpoint",
    "tokenizers",
    "generation",
    "quantize",
    "model",
    "auto",
    "pipelines",
    "training",
    "cli",
    "__main__",
]
WITHOUT_TORCH = ["hub", "files", "config", "tokenizers", "cli"]
MODULES = sorted(path for path in SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("quintet.")} & set(ROOMS)


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in MODULES} == {*ROOMS, "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_import_only_what_lies_before_them(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert imported_rooms(path) <= set(ROOMS[: ROOMS.index(room) + 1])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_reference_is_never_imported(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not any((module or "").split(".")[0] == "transformers" for module in modules)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            # The reference's argument lists and what they mean are long; the code that follows them is not.
            documented = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
            assert node.end_lineno - (documented or 0) <= 60, f"{path.name}:{node.name}"


def test_variants_are_values_not_names() -> None:
    """Only config/ knows model types; no other room asks a model for its name."""
    for path in MODULES:
        if room_of(path) != "config":
            assert ".model_type ==" not in path.read_text(encoding="utf-8"), path


def modules_loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*(name for name in sys.modules if '.' not in name))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("room", [None, *WITHOUT_TORCH])
def test_importing_loads_no_torch(room: str | None) -> None:
    loaded = modules_loaded_by("import quintet" if room is None else f"import quintet.{room}")
    assert not loaded & {"torch", "transformers", "accelerate", "torchao", "gguf"}


def test_every_public_name_is_there() -> None:
    for name in quintet.__all__:
        assert getattr(quintet, name) is not None
    assert set(quintet.__all__) <= set(dir(quintet))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        quintet.nonsense


def test_the_public_list_is_the_one_documented() -> None:
    """The names of the reference's T5 page, and what users need around them."""
    module = importlib.import_module("quintet")
    expected = [
        "T5Config",
        "MT5Config",
        "UMT5Config",
        "T5Tokenizer",
        "T5TokenizerFast",
        "MT5Tokenizer",
        "MT5TokenizerFast",
        "ByT5Tokenizer",
        "AddedToken",
        "BatchEncoding",
        "T5PreTrainedModel",
        "Cache",
        "DynamicCache",
        "StaticCache",
        "EncoderDecoderCache",
        "GenerationConfig",
        "GenerateEncoderDecoderOutput",
        "GenerateBeamEncoderDecoderOutput",
        "ScoreOutput",
        "Constraint",
        "DisjunctiveConstraint",
        "PhrasalConstraint",
        "StoppingCriteria",
        "StoppingCriteriaList",
        "MaxLengthCriteria",
        "MaxTimeCriteria",
        "EosTokenCriteria",
        "StopStringCriteria",
        "BaseStreamer",
        "TextStreamer",
        "TextIteratorStreamer",
        "AsyncTextIteratorStreamer",
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
        "QuantizationConfig",
        "TorchAoConfig",
        "ModelOutput",
        "BaseModelOutput",
        "BaseModelOutputWithPastAndCrossAttentions",
        "Seq2SeqModelOutput",
        "Seq2SeqLMOutput",
        "Seq2SeqSequenceClassifierOutput",
        "TokenClassifierOutput",
        "Seq2SeqQuestionAnsweringModelOutput",
        "pipeline",
        "Pipeline",
        "Text2TextGenerationPipeline",
        "SummarizationPipeline",
        "TranslationPipeline",
        "TextClassificationPipeline",
        "TokenClassificationPipeline",
        "QuestionAnsweringPipeline",
        "FeatureExtractionPipeline",
        "ZeroShotClassificationPipeline",
        "AutoConfig",
        "AutoTokenizer",
        "AutoModel",
        "AutoModelForSeq2SeqLM",
        "AutoModelForTextEncoding",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
        "AutoModelForQuestionAnswering",
        "__version__",
    ]
    heads = ["Model", "ForConditionalGeneration", "EncoderModel", "ForSequenceClassification"]
    heads += ["ForTokenClassification", "ForQuestionAnswering"]
    expected += [variant + head for variant in ("T5", "MT5", "UMT5") for head in heads]
    assert sorted(module.__all__) == sorted(expected)
