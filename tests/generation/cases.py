"""The matrix of ways to decode: strategies, what shapes their scores, the models, batches and padding they run on.

A case gives the keyword arguments of `generate` for either library. Shapings take their words from what the model says
when it is left alone, so that each of them has something to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor

import quintet

from ..model.reference import PAD, SIZES, START, VARIANTS, Pair, build, make_batch, make_pair, randomize, shared_pair

HEAD = "ForConditionalGeneration"
VOCABULARY = SIZES["vocab_size"]
NEW_TOKENS = 10
PADDINGS = ("right", "left", "none")


@cache
def lively_pair(variant: str) -> Pair:
    """A pair whose rows end at many different steps.

    The end-of-sequence token is the one that would end the most rows at the most different steps of a free greedy run;
    its row of the output matrix is enlarged, so that beams and samples meet it too.
    """
    end = max(_free_words(variant), key=lambda token: (_spread(variant, token), -token))
    pair = make_pair(HEAD, variant, eos_token_id=end)
    with torch.no_grad():
        for model in pair:
            model.lm_head.weight[end] *= 1.5
    pair.ours.engine = "auto"
    return pair


def _spread(variant: str, token: int) -> int:
    ends = [row.index(token) for row in _free_answer(variant).tolist() if token in row]
    return len(set(ends)) + sum(end > 2 for end in ends) - 2 * ends.count(1)


def _free_words(variant: str) -> list[int]:
    return [token for token in _free_answer(variant)[:, 2:].unique().tolist() if token != PAD]


@cache
def _free_answer(variant: str) -> Tensor:
    return shared_pair(HEAD, variant).theirs.generate(
        **source(), max_new_tokens=NEW_TOKENS, eos_token_id=None, use_cache=False
    )


@cache
def plain_answer(variant: str) -> Tensor:
    """What the reference says greedily to all six rows, padded on the right."""
    return lively_pair(variant).theirs.generate(**source(), max_new_tokens=NEW_TOKENS, use_cache=False)


def source(padding: str = "right", rows: int = 6, first: int = 0) -> dict[str, Tensor]:
    """Rows to read, of 11, 6, 3, 11, 6 and 3 tokens, the first `first` left out."""
    batches = [make_batch("EncoderModel", padding, seed=seed) for seed in (1, 2)]
    return {name: torch.cat([batch[name] for batch in batches])[first : first + rows] for name in batches[0]}


@cache
def forced_words(variant: str) -> dict[str, list[Any]]:
    """What constrained search must say: words, and words after words, that the model finds rather likely anywhere.

    The reference forgets a beam that has said its words as soon as others look better, so that unlikely words come out
    only by accident.
    """
    answer = plain_answer(variant)
    likely = _log_probabilities(variant, answer[:, :6]).mean((0, 1)).argsort(descending=True).tolist()

    def follower(word: int) -> int:
        start = torch.cat([answer[:, :2], torch.full((6, 1), word)], dim=1)
        return int(_log_probabilities(variant, start)[:, -1].mean(0).argmax())

    return {"phrase": [likely[0], follower(likely[0])], "choices": [[likely[1]], [likely[2], follower(likely[2])]]}


@torch.no_grad()
def _log_probabilities(variant: str, tokens: Tensor) -> Tensor:
    model = lively_pair(variant).theirs
    scores = model(**source(), decoder_input_ids=tokens, use_cache=False).logits.log_softmax(-1)
    scores[..., [PAD, model.config.eos_token_id]] = -torch.inf
    return scores


def must_be_said(variant: str) -> set[int]:
    """Every word of `forced_words`."""
    words = forced_words(variant)
    return {*words["phrase"], *(token for choice in words["choices"] for token in choice)}


def spoken(variant: str) -> list[int]:
    """Words that the model says when it is left alone, the most frequent first; no end, no padding, no forced word."""
    kept = {PAD, START, lively_pair(variant).theirs.config.eos_token_id, *must_be_said(variant)}
    words, counts = plain_answer(variant).unique(return_counts=True)
    ranked = sorted(zip(words.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return [word for word, _ in ranked if word not in kept]


def spoken_pairs(variant: str) -> list[list[int]]:
    """Neighbouring words of the free answer, both of them `spoken`."""
    words = set(spoken(variant))
    rows = plain_answer(variant).tolist()
    pairs = [list(pair) for row in rows for pair in pairwise(row)]
    return [pair for pair in pairs if pair[0] in words and pair[1] in words and pair[0] != pair[1]]


@dataclass(frozen=True)
class Scene:
    """What a shaping may look at: whose objects to make, the model's variant, and the batch."""

    library: ModuleType
    variant: str
    batch: Mapping[str, Tensor]

    @property
    def model(self) -> Any:
        pair = lively_pair(self.variant)
        return pair.ours if self.library is quintet else pair.theirs

    @property
    def end(self) -> int:
        return self.model.config.eos_token_id

    @property
    def rows(self) -> int:
        return len(self.batch["input_ids"])


GREEDY: dict[str, dict[str, Any]] = {"greedy": {}}
SAMPLING: dict[str, dict[str, Any]] = {
    "sample": {"do_sample": True},
    "sample-everything": {"do_sample": True, "top_k": 0},
    "temperature": {"do_sample": True, "temperature": 0.6, "top_k": 0},
    "top-k": {"do_sample": True, "top_k": 5},
    "top-p": {"do_sample": True, "top_k": 0, "top_p": 0.7},
    "min-p": {"do_sample": True, "top_k": 0, "min_p": 0.15},
    "typical-p": {"do_sample": True, "top_k": 0, "typical_p": 0.6},
    "epsilon-cutoff": {"do_sample": True, "top_k": 0, "epsilon_cutoff": 0.03},
    "eta-cutoff": {"do_sample": True, "top_k": 0, "eta_cutoff": 0.1},
    "all-filters": {
        "do_sample": True,
        "temperature": 1.4,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.01,
        "typical_p": 0.95,
        "epsilon_cutoff": 0.003,
        "eta_cutoff": 0.003,
        "num_return_sequences": 3,
    },
}
BEAMS: dict[str, dict[str, Any]] = {
    "beams-2": {"num_beams": 2, "length_penalty": -1.0},
    "beams-2-never": {"num_beams": 2, "length_penalty": -1.0, "early_stopping": "never", "num_return_sequences": 2},
    "beams-3": {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never"},
    "beams-3-early": {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True},
    "beams-4": {"num_beams": 4, "num_return_sequences": 2},
    "beams-4-early": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 4},
    "beams-4-never": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never", "num_return_sequences": 3},
    "beams-5": {"num_beams": 5, "length_penalty": 0.5, "num_return_sequences": 5},
    "beams-5-early": {"num_beams": 5, "length_penalty": 1.0, "early_stopping": True, "num_return_sequences": 2},
}
BEAM_SAMPLING: dict[str, dict[str, Any]] = {
    "beam-sample": {"num_beams": 3, "do_sample": True, "num_return_sequences": 2},
    "beam-sample-filtered": {"num_beams": 2, "do_sample": True, "temperature": 1.3, "top_k": 30, "top_p": 0.9},
    "beam-sample-early": {"num_beams": 4, "do_sample": True, "early_stopping": True, "length_penalty": 0.0},
}
GROUPS: dict[str, dict[str, Any]] = {
    "groups-2": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5, "num_return_sequences": 4},
    "groups-3": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7, "length_penalty": 0.5},
    "groups-of-one": {"num_beams": 3, "num_beam_groups": 3, "diversity_penalty": 5.0, "num_return_sequences": 3},
    "groups-early": {"num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 1.0, "early_stopping": True},
}
WORDS: dict[str, dict[str, Any]] = {
    "phrase": {"num_beams": 4, "words": ("phrase",)},
    "choice": {"num_beams": 3, "words": ("choices",), "length_penalty": 0.5},
    "phrase-and-choice": {"num_beams": 5, "words": ("phrase", "choices"), "early_stopping": True},
}
ASSISTED: dict[str, dict[str, Any]] = {
    "assistant-like-itself": {"assistant": 0.02},
    "assistant-unlike-itself": {"assistant": None},
    "prompt-lookup": {"prompt_lookup_num_tokens": 4},
}
STRATEGIES = {**GREEDY, **SAMPLING, **BEAMS, **BEAM_SAMPLING, **GROUPS, **WORDS, **ASSISTED}
# Each of these meets every shaping; the others meet every variant.
SHAPED = (
    "greedy",
    "sample",
    "beams-4",
    "beams-3-early",
    "beam-sample",
    "groups-2",
    "phrase-and-choice",
    "assistant-like-itself",
    "prompt-lookup",
)


def own_processor(library: ModuleType) -> Any:
    """A processor as users write them: it favours a word that follows from the last one."""

    class Favourite(library.LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            word = (input_ids[:, -1:] * 7 + input_ids.shape[1]) % VOCABULARY
            return scores.scatter_add(1, word, torch.full_like(word, 3, dtype=scores.dtype))

    return Favourite()


def own_criterion(library: ModuleType) -> Any:
    """A criterion as users write them: a row stops when its sum is a multiple of seven."""

    class Sevens(library.StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            return (input_ids.sum(1) % 7 == 0) & (input_ids.shape[1] > 3)

    return Sevens()


def _allowed_words(scene: Scene) -> dict[str, Any]:
    """Two thirds of the vocabulary, another two thirds for each row and step, and the words that must be said."""

    def allowed(batch_id: int, tokens: Tensor) -> list[int]:
        shift = batch_id + len(tokens)
        always = must_be_said(scene.variant)
        return [token for token in range(VOCABULARY) if (token + shift) % 3 or token in always]

    return {"prefix_allowed_tokens_fn": allowed}


def _prefix(scene: Scene) -> Tensor:
    tokens = torch.tensor([20, 31, 42, 53, 64, 75])[: scene.rows]
    return torch.stack([torch.full_like(tokens, START), tokens, tokens + 1], dim=1)


def _inputs_embeds(scene: Scene) -> dict[str, Any]:
    embeds = lively_pair(scene.variant).theirs.get_input_embeddings()(scene.batch["input_ids"])
    return {"input_ids": None, "inputs_embeds": embeds.detach()}


def _encoder_outputs(scene: Scene) -> dict[str, Any]:
    with torch.no_grad():
        return {"input_ids": None, "encoder_outputs": scene.model.get_encoder()(**scene.batch)}


def _sequence_bias(scene: Scene) -> dict[str, Any]:
    first, second = spoken(scene.variant)[:2]
    pair = spoken_pairs(scene.variant)[0]
    return {"sequence_bias": {(first,): -2.5, (second,): 1.5, (17,): 2.0, tuple(pair): -8.0}}


def _several_ends(scene: Scene) -> dict[str, Any]:
    return {"eos_token_id": [scene.end, *spoken(scene.variant)[1:3]]}


SHAPINGS: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "repetition-penalty": lambda scene: {"repetition_penalty": 1.6},
    "encoder-repetition-penalty": lambda scene: {"encoder_repetition_penalty": 2.5},
    "no-repeat-ngram": lambda scene: {"no_repeat_ngram_size": 2},
    "encoder-no-repeat-ngram": lambda scene: {"encoder_no_repeat_ngram_size": 1},
    "bad-words": lambda scene: {"bad_words_ids": [[spoken(scene.variant)[0]], spoken_pairs(scene.variant)[-1]]},
    "sequence-bias": _sequence_bias,
    "suppress": lambda scene: {"suppress_tokens": spoken(scene.variant)[:3]},
    "begin-suppress": lambda scene: {"begin_suppress_tokens": plain_answer(scene.variant)[:, 1].tolist()},
    "forced-first": lambda scene: {"forced_bos_token_id": 33},
    "forced-last": lambda scene: {"forced_eos_token_id": scene.end},
    "min-length": lambda scene: {"min_length": 9},
    "min-new-tokens": lambda scene: {"min_new_tokens": 7},
    "max-length": lambda scene: {"max_length": 6, "max_new_tokens": None},
    "decay": lambda scene: {"exponential_decay_length_penalty": (3, 1.4)},
    "renormalized": lambda scene: {"renormalize_logits": True, "suppress_tokens": spoken(scene.variant)[:2]},
    "prefix-allowed": _allowed_words,
    "invalid-removed": lambda scene: {"remove_invalid_values": True, "bad_words_ids": [[spoken(scene.variant)[0]]]},
    "own-processor": lambda scene: {"logits_processor": [own_processor(scene.library)]},
    "own-criterion": lambda scene: {"stopping_criteria": [own_criterion(scene.library)]},
    "decoder-prefix": lambda scene: {"decoder_input_ids": _prefix(scene)},
    "prefix-without-start": lambda scene: {"decoder_input_ids": _prefix(scene)[:, 1:]},
    "inputs-embeds": _inputs_embeds,
    "encoder-outputs": _encoder_outputs,
    "several-ends": _several_ends,
    "uncached": lambda scene: {"use_cache": False},
    "static-cache": lambda scene: {"cache_implementation": "static"},
    "several-at-once": lambda scene: {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 4,
        "suppress_tokens": spoken(scene.variant)[:1],
        "renormalize_logits": True,
        "logits_processor": [own_processor(scene.library)],
    },
}
# These change how an answer is found or where its input comes from, not the answer.
HARMLESS = ("inputs-embeds", "encoder-outputs", "uncached", "static-cache")
LEFT_OUT = {
    # The reference asks an own criterion whether all beams of all rows stop, and otherwise ignores it, in these two.
    *((name, "own-criterion") for name in (*GROUPS, *WORDS)),
    # An assistant reads the ids of the source, and so does the lookup; both need a cache that can be cut back.
    *((name, shaping) for name in ASSISTED for shaping in HARMLESS),
}


@dataclass(frozen=True)
class Case:
    """One combination; `arguments` is what `generate` gets from it."""

    strategy: str
    shaping: str | None
    variant: str
    padding: str
    rows: int
    first: int = 0

    def __str__(self) -> str:
        return f"{self.strategy}/{self.shaping or 'plain'}/{self.variant}/{self.padding}/{self.rows}"

    @property
    def beams(self) -> int:
        return STRATEGIES[self.strategy].get("num_beams", 1)

    def scene(self, library: ModuleType) -> Scene:
        return Scene(library, self.variant, source(self.padding, self.rows, self.first))

    def arguments(self, library: ModuleType) -> dict[str, Any]:
        """The keyword arguments for `library`; the reference gets the plain strategy for an assisted one."""
        scene = self.scene(library)
        options = dict(STRATEGIES[self.strategy])
        shaping = SHAPINGS[self.shaping](scene) if self.shaping else {}
        if "words" in options:
            options["force_words_ids"] = [forced_words(self.variant)[kind] for kind in options.pop("words")]
        if self.strategy in ASSISTED:
            options = _assistance(self, options) if library is quintet else {}
        merged = {**scene.batch, "max_new_tokens": NEW_TOKENS, **options, **shaping}
        merged = {name: value for name, value in merged.items() if value is not None}
        return merged if library is quintet else self._for_the_reference(merged)

    def _for_the_reference(self, arguments: dict[str, Any]) -> dict[str, Any]:
        arguments.pop("cache_implementation", None)
        if self.variant == "deep-decoder":
            # Its cache has as many layers as the encoder.
            arguments["use_cache"] = False
        if "encoder_repetition_penalty" in arguments:
            # The reference does not repeat the source for each beam or sample and so penalizes the words of row i in
            # hypothesis i of the flattened batch. The definition: a row's own source, in each of its hypotheses.
            groups = arguments.get("num_beam_groups", 1)
            width = max(self.beams // groups, arguments.get("num_return_sequences", 1) if self.beams == 1 else 1)
            ids = arguments["input_ids"].repeat_interleave(width, dim=0)
            penalty = arguments.pop("encoder_repetition_penalty")
            arguments["logits_processor"] = [transformers.EncoderRepetitionPenaltyLogitsProcessor(penalty, ids)]
        return arguments


def _assistance(case: Case, options: dict[str, Any]) -> dict[str, Any]:
    if "assistant" not in options:
        return options
    return {"assistant_model": assistant(case.variant, options["assistant"])}


@cache
def assistant(variant: str, noise: float | None) -> Any:
    """quintet's model to guess with: the variant's own weights and some noise, or a smaller model of other weights."""
    if noise is None:
        model = build(quintet, HEAD, "t5", d_model=16, num_layers=1, num_heads=2)
        randomize(model, seed=5)
        return model.eval()
    main = lively_pair(variant).ours
    model = build(quintet, HEAD, variant)
    model.load_state_dict(main.state_dict())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def cases() -> Iterator[Case]:
    """Every strategy on every variant, and the shaped strategies under every shaping; rows and padding take turns."""
    pairs = [(strategy, None) for strategy in STRATEGIES for _ in VARIANTS]
    pairs += [(strategy, shaping) for shaping in SHAPINGS for strategy in SHAPED]
    variants = list(VARIANTS)
    for turn, (strategy, shaping) in enumerate(pairs):
        if (strategy, shaping) not in LEFT_OUT:
            padding = PADDINGS[(turn + turn // 9) % 3]
            rows, first = ((6, 0), (3, 2), (1, turn // 9 % 6))[(turn + turn // 27) % 3]
            yield Case(strategy, shaping, variants[turn % 9], padding, rows, first)
