"""Extractive question answering: which words of a context answer a question."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quintet.model.task_heads import T5ForQuestionAnswering
from quintet.pipelines.base import Piece, Pipeline, check_count, is_several, is_stream

LONGEST_PIECE, LONGEST_STRIDE = 384, 128  # the reference's defaults


@dataclass
class Options:
    """The options of a call: how contexts are cut, and which answers come back."""

    top_k: int
    max_answer_len: int
    handle_impossible_answer: bool
    align_to_words: bool
    max_seq_len: int
    doc_stride: int
    padding: Any


@dataclass
class Window:
    """A part of a context: the tokenizer's encoding of question and part, and which tokens are of the context."""

    encoding: Any
    in_context: np.ndarray


class QuestionAnsweringPipeline(Pipeline):
    """Finds the words of a context that answer a question.

    Called with question=... and context=... (texts, or lists of them; one context may go with several questions), with
    {"question": ..., "context": ...}, or with a list, data set or generator of such; other keys of theirs are ignored.
    One question gives {"score", "start", "end", "answer"}, start and end being characters of the context; several give
    a list; so does top_k > 1, with the best answers first, fewer if there are no more.

    A context that does not fit into max_seq_len tokens (384, or the tokenizer's limit) with its question is read in
    parts that share doc_stride tokens (128, or half of max_seq_len); equal answers from several parts add up. Options:
    top_k; max_answer_len (15) in tokens; handle_impossible_answer (the empty answer is one too, the least likely);
    align_to_words (True: answers begin and end with whole words); padding, the tokenizer's; max_question_len has no
    effect, as in the reference with fast tokenizers. Needs a fast tokenizer: others know no offsets.
    """

    default_task = "question-answering"
    head = T5ForQuestionAnswering

    def __call__(self, inputs: Any = None, context: Any = None, *, question: Any = None, **options: Any) -> Any:
        """The answers; options are the class's, and those of `Pipeline.__call__`.

        Raises ValueError for something that is no question with its context, or either of them empty.
        """
        if isinstance(inputs, str):
            question, inputs = inputs, None
        if inputs is None:
            inputs = _paired(question, context)
        elif question is not None or context is not None:
            raise ValueError("give question and context, or dictionaries of both, not both ways at once")
        if not is_stream(inputs) and is_several(inputs):
            inputs = list(inputs)
            if len(inputs) == 1:
                inputs = inputs[0]
        return super().__call__(inputs, **options)

    def parse(
        self,
        *,
        top_k: int | None = None,
        topk: int | None = None,
        max_answer_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        padding: Any = None,
    ) -> Options:
        """See the class."""
        if not self.tokenizer.is_fast:
            raise ValueError(
                "question answering needs a fast tokenizer, such as T5TokenizerFast: others know no offsets"
            )
        if topk is not None and top_k is None:
            warnings.warn("topk is deprecated: use top_k", stacklevel=4)
            top_k = topk
        longest = min(self.tokenizer.model_max_length, LONGEST_PIECE)
        longest = longest if max_seq_len is None else check_count("max_seq_len", max_seq_len)
        stride = min(longest // 2, LONGEST_STRIDE) if doc_stride is None else doc_stride
        if isinstance(stride, bool) or not isinstance(stride, int) or not 0 <= stride <= longest:
            raise ValueError(f"doc_stride must be from 0 to max_seq_len, {longest}; got {stride!r}")
        return Options(
            top_k=1 if top_k is None else check_count("top_k", top_k),
            max_answer_len=15 if max_answer_len is None else check_count("max_answer_len", max_answer_len),
            handle_impossible_answer=bool(handle_impossible_answer),
            align_to_words=align_to_words is None or bool(align_to_words),
            max_seq_len=longest,
            doc_stride=stride,
            padding=False if padding is None else padding,
        )

    def prepare(self, item: Any, options: Options) -> list[Piece]:
        """As many pieces as the context needs, the question before each."""
        question, context = _parts(item)
        encoded = self.tokenizer(
            question,
            context,
            padding=options.padding,
            truncation="only_second",
            max_length=options.max_seq_len,
            stride=options.doc_stride,
            return_overflowing_tokens=True,
        )
        pieces = []
        for row, encoding in enumerate(encoded.encodings):
            in_context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
            pieces.append(
                Piece(encoded["input_ids"][row], encoded["attention_mask"][row], Window(encoding, in_context))
            )
        return pieces

    def compute(self, batch: list[Piece], options: Options) -> list[np.ndarray]:
        """For each piece, the logits (2, tokens) of starts and ends."""
        output = self.model(**self.tensors(batch), use_cache=False)
        logits = torch.stack([output.start_logits, output.end_logits], dim=1).float().cpu().numpy()
        return [row[:, : len(piece)] for row, piece in zip(logits, batch, strict=True)]

    def finish(self, item: Any, pieces: list[Piece], found: list[np.ndarray], options: Options) -> Any:
        """The best answer, or a list of answers."""
        _, context = _parts(item)
        # Answers that become equal when they are aligned to words leave room for others.
        wanted = options.top_k * 2 + 10 if options.align_to_words else options.top_k
        answers: dict[str, dict[str, Any]] = {}
        no_answer = float("inf")
        for piece, logits in zip(pieces, found, strict=True):
            window: Window = piece.extra
            starts, ends = _probabilities(logits, window.in_context)
            # The first token stands for "no answer", which T5 was not trained on: as part of the question it gets 0.
            no_answer = min(no_answer, float(starts[0] * ends[0]))
            for start, end, score in _best_spans(starts, ends, wanted, options.max_answer_len):
                if not (window.in_context[start] and window.in_context[end]):
                    continue
                first, last = _characters(window.encoding, start, end, options.align_to_words)
                text = context[first:last]
                answer = {"score": 0.0, "start": first, "end": last, "answer": text}
                answers.setdefault(text.lower(), answer)["score"] += score
        ranked = list(answers.values())
        if options.handle_impossible_answer:
            ranked.append({"score": no_answer, "start": 0, "end": 0, "answer": ""})
        ranked.sort(key=lambda answer: answer["score"], reverse=True)
        return ranked[0] if len(ranked[: options.top_k]) == 1 else ranked[: options.top_k]


def _probabilities(logits: np.ndarray, in_context: np.ndarray) -> np.ndarray:
    """Softmax (2, tokens) over the tokens of the context."""
    logits = np.where(in_context, logits, np.float32(-10000.0))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _best_spans(starts: np.ndarray, ends: np.ndarray, count: int, longest: int) -> list[tuple[int, int, float]]:
    """The most probable (start, end, probability), ends not before starts, at most `longest` tokens long."""
    scores = np.tril(np.triu(np.outer(starts, ends)), longest - 1)
    flat = scores.ravel()
    if count < len(flat):
        best = np.argpartition(-flat, count)[:count]
        best = best[np.argsort(-flat[best])]
    else:
        best = np.argsort(-flat)
    return [
        (int(start), int(end), float(scores[start, end]))
        for start, end in zip(*np.unravel_index(best, scores.shape), strict=True)
    ]


def _characters(encoding: Any, start: int, end: int, align_to_words: bool) -> tuple[int, int]:
    """The characters of the context from one token to another, or from one word to another."""
    if align_to_words:
        words = [encoding.token_to_word(token) for token in (start, end)]
        spans = [encoding.word_to_chars(word, 1) for word in words if word is not None]
        if len(spans) == 2 and None not in spans:
            return spans[0][0], spans[1][1]
    return encoding.offsets[start][0], encoding.offsets[end][1]


def _paired(question: Any, context: Any) -> Any:
    """The inputs that questions and contexts given as arguments make."""
    if isinstance(question, str) and isinstance(context, str):
        return {"question": question, "context": context}
    if not isinstance(question, (list, tuple)) or not isinstance(context, (str, list, tuple)):
        raise ValueError("give question=... and context=..., both texts or lists of texts, or dictionaries of both")
    contexts = [context] * len(question) if isinstance(context, str) else context
    if len(contexts) != len(question):
        raise ValueError(f"{len(question)} questions need as many contexts, or one for all; got {len(contexts)}")
    return [{"question": one, "context": other} for one, other in zip(question, contexts, strict=True)]


def _parts(item: Any) -> tuple[str, str]:
    """Question and context of an input."""
    if not isinstance(item, Mapping) or not {"question", "context"} <= set(item):
        got = f"the keys {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
        raise ValueError(f'an input must be {{"question": ..., "context": ...}}, got {got}')
    for name in ("question", "context"):
        if not isinstance(item[name], str):
            raise ValueError(f"the {name} must be a text, got {type(item[name]).__name__}")
        if not item[name]:
            raise ValueError(f"the {name} is empty")
    return item["question"], item["context"]
