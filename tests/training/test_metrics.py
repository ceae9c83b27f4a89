"""Metrics beside the libraries they come from, published figures, and the reference's rules of SQuAD."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

from quintet.training.metrics import METRICS, compute_metrics

# The example of sacreBLEU's own documentation, with its figures: BLEU 48.5, chrF2 59.7.
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]


def test_bleu_and_chrf_take_all_references_of_a_source_together() -> None:
    found = compute_metrics(["sacrebleu", "chrf"], SYSTEM, REFERENCES)
    assert {name: round(score, 1) for name, score in found.items()} == {"sacrebleu": 48.5, "chrf": 59.7}
    assert compute_metrics(["sacrebleu"], SYSTEM, [own[0] for own in REFERENCES])["sacrebleu"] < 48


def test_sources_may_have_different_numbers_of_references() -> None:
    """A source with fewer counts as if its only reference were there twice."""
    uneven = [REFERENCES[0], REFERENCES[1][:1], REFERENCES[2]]
    streams = [[own[0] for own in REFERENCES], [REFERENCES[0][1], REFERENCES[1][0], REFERENCES[2][1]]]
    found = compute_metrics(["sacrebleu", "chrf"], SYSTEM, uneven)
    assert found["sacrebleu"] == pytest.approx(sacrebleu.corpus_bleu(SYSTEM, streams).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(SYSTEM, streams).score)


def test_rouge_is_the_best_references_mean() -> None:
    predictions = ["the cats sat\non a mat", "no word"]
    references: list[Any] = [["a dog", "the cat sat\non the mat"], "something else"]
    found = compute_metrics(["rouge"], predictions, references)
    scores = RougeScorer(list(found), use_stemmer=True).score(references[0][1], predictions[0])
    assert found == pytest.approx({name: 100 * score.fmeasure / 2 for name, score in scores.items()})
    # Five of six words are the reference's, by hand; cats and cat are the same after stemming.
    assert found["rouge1"] == pytest.approx(100 * (5 / 6) / 2)
    assert found["rougeLsum"] == found["rougeL"] > found["rouge2"] > 0


ANSWERS = st.lists(
    st.sampled_from(["The", "a", "an", "cat", "Cat.", "there", "U.S.", "42", ",", "été", "-"]), max_size=6
)


@given(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3))
def test_squad_compares_as_the_reference(words: list[str], several: list[list[str]]) -> None:
    prediction, references = " ".join(words), [" ".join(own) for own in several]
    found = compute_metrics(["squad"], [prediction], [references])
    assert found["exact_match"] == 100 * max(compute_exact(own, prediction) for own in references)
    assert found["f1"] == pytest.approx(100 * max(compute_f1(own, prediction) for own in references))


def test_exact_match_and_accuracy_count_predictions_that_are_a_reference() -> None:
    predictions = ["positive", " negative\n", "Positive", "the end"]
    references: list[Any] = ["positive", ["neutral", "negative"], "positive", "end"]
    assert compute_metrics(["exact_match"], predictions, references) == {"exact_match": 50.0}
    assert compute_metrics(["accuracy"], predictions, references) == {"accuracy": 50.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["bleu", "chrf"], ["a"], ["a"]), "a metric is one of sacrebleu, .*, accuracy; got 'bleu'"),
        ((["chrf"], [], []), "got 0 and 0"),
        ((["chrf"], ["a", "b"], ["a"]), "metrics need predictions and references for each: got 2 and 1"),
        ((["chrf"], ["a", "b"], ["a", []]), "prediction 1 has no reference"),
    ],
)
def test_refusals(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_metrics(*arguments)


@pytest.mark.parametrize(("metric", "library"), [("sacrebleu", "sacrebleu"), ("rouge", "rouge_score.rouge_scorer")])
def test_a_missing_library_is_named_with_what_installs_it(
    metric: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}: pip install 'quintet\[train\]'"):
        compute_metrics([metric], ["a"], ["a"])
    others = [name for name in METRICS if name not in (metric, "chrf")]
    assert compute_metrics(others, ["a"], ["a"])
