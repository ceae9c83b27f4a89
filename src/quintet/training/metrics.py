"""How good generated texts are: numbers from 0 to 100, over a whole data set, with one or several references each."""

from __future__ import annotations

import collections
import importlib
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

References = Sequence[Sequence[str]]


def compute_metrics(
    names: Sequence[str], predictions: Sequence[str], references: Sequence[str | Sequence[str]]
) -> dict[str, float]:
    """The metrics of predictions, each with a reference or a list of them; a name may give several numbers.

    "sacrebleu" and "chrf": of the corpus, as sacreBLEU computes them by default; all references of a source count
    together. "rouge": rouge1, rouge2, rougeL and rougeLsum (whose sentences are lines), F-measure after stemming, of
    the best reference, averaged. "squad": exact_match and f1 of SQuAD, which ignore case, punctuation and articles.
    "exact_match", "accuracy": how many predictions are a reference, apart from white space around them.

    Raises ValueError for an unknown name, no predictions, or not one non-empty entry of references for each of them;
    ImportError if a library is missing.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"a metric is one of {', '.join(METRICS)}; got {', '.join(map(repr, unknown))}")
    if not predictions or len(predictions) != len(references):
        raise ValueError(
            f"metrics need predictions and references for each: got {len(predictions)} and {len(references)}"
        )
    several = [[entry] if isinstance(entry, str) else list(entry) for entry in references]
    if not all(several):
        raise ValueError(f"prediction {several.index([])} has no reference")
    found: dict[str, float] = {}
    for name in names:
        found |= METRICS[name](predictions, several)
    return found


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this metric needs {name}: pip install 'quintet[train]'") from error


def _sacrebleu(predictions: Sequence[str], references: References) -> dict[str, float]:
    return {"sacrebleu": _library("sacrebleu").corpus_bleu(predictions, _streams(references)).score}


def _chrf(predictions: Sequence[str], references: References) -> dict[str, float]:
    return {"chrf": _library("sacrebleu").corpus_chrf(predictions, _streams(references)).score}


def _streams(references: References) -> list[list[str | None]]:
    """All first references, all second ones, and so on; None where a source has no more."""
    most = max(map(len, references))
    return [[own[index] if index < len(own) else None for own in references] for index in range(most)]


def _rouge(predictions: Sequence[str], references: References) -> dict[str, float]:
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(kinds, use_stemmer=True)
    scores = [scorer.score_multi(own, prediction) for own, prediction in zip(references, predictions, strict=True)]
    return {kind: _percent([score[kind].fmeasure for score in scores]) for kind in kinds}


def _share_equal(name: str) -> Callable[[Sequence[str], References], dict[str, float]]:
    def share(predictions: Sequence[str], references: References) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        return {name: _percent([prediction.strip() in map(str.strip, own) for prediction, own in pairs])}

    return share


def _squad(predictions: Sequence[str], references: References) -> dict[str, float]:
    pairs = [
        (_words(prediction), list(map(_words, own))) for prediction, own in zip(predictions, references, strict=True)
    ]
    return {
        "exact_match": _percent([words in own for words, own in pairs]),
        "f1": _percent([max(_f1(words, wanted) for wanted in own) for words, own in pairs]),
    }


def _words(answer: str) -> list[str]:
    """An answer's words as SQuAD compares them: no case, no punctuation, no articles."""
    bare = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _f1(words: list[str], wanted: list[str]) -> float:
    """The harmonic mean of precision and recall of words. Two answers without words are equal."""
    if not words or not wanted:
        return float(words == wanted)
    shared = (collections.Counter(words) & collections.Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted))


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


METRICS: dict[str, Callable[[Sequence[str], References], dict[str, float]]] = {
    "sacrebleu": _sacrebleu,
    "chrf": _chrf,
    "rouge": _rouge,
    "squad": _squad,
    "exact_match": _share_equal("exact_match"),
    "accuracy": _share_equal("accuracy"),
}
