"""A vocabulary of one's own: SentencePiece's unigram model, trained on text and numbered as T5's is."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from quintet.tokenizers import T5TokenizerFast

LINES_AT_MOST = 10_000_000  # drawn from all, with a fixed seed: the trainer holds them in memory
LONGEST_LINE = 2**24  # bytes; the trainer's own limit of 4,192 drops whole paragraphs
# What a number of pieces that does not fit is answered with, and what that means.
REASONS = {
    r"too high .* <= (\d+)": "the text is too small for a vocabulary of {size} pieces: it gives at most {number}",
    r"required_chars\. \d+ vs (\d+)": "a vocabulary of {size} pieces does not hold the text's characters: that takes "
    "at least {number}",
    r"sentences_\.empty|all_chars_count": "there is no text in the files to train a vocabulary on",
}


def train_vocabulary(
    files: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str], vocab_size: int = 32_000
) -> T5TokenizerFast:
    """Train a tokenizer on the lines of text files (UTF-8) and save it into a folder; returns it.

    It has `vocab_size` pieces, of which `<pad>` is 0, `</s>` 1 and `<unk>` 2, and 100 sentinels after them,
    `<extra_id_0>` last; normalisation is T5's, and so is that the rarest 0.05 % of the characters
    become `<unk>`. The same files give the same vocabulary. A model for it has a vocab_size of at least
    len(tokenizer); T5 rounds up to a multiple of 128.

    Raises FileNotFoundError for a missing file, ValueError for a line that is no UTF-8, for no text at all, and for a
    vocab_size that the text does not allow, saying which it does.
    """
    if isinstance(files, (str, os.PathLike)) or not files:
        raise ValueError("files must be a list of at least one text file")
    missing = [os.fspath(path) for path in files if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(f"there is no file {', '.join(missing)}")
    model = _train(_Lines(files), vocab_size)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, T5TokenizerFast.vocab_files_names["vocab_file"])
        path.write_bytes(model)
        T5TokenizerFast(vocab_file=path).save_pretrained(folder)
    return T5TokenizerFast.from_pretrained(folder)


class _Lines:
    """The lines of files, without empty ones; what was wrong with them, as the trainer does not pass that on."""

    def __init__(self, files: Sequence[str | os.PathLike[str]]) -> None:
        self.files = files
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        for path in self.files:
            with open(path, "rb") as lines:
                for number, line in enumerate(lines, start=1):
                    try:
                        text = line.decode("utf-8").strip()
                    except UnicodeDecodeError as error:
                        self.failure = ValueError(f"{os.fspath(path)}, line {number} is no UTF-8: {error}")
                        raise self.failure from error
                    if text:
                        yield text


def _train(lines: _Lines, vocab_size: int) -> bytes:
    """A SentencePiece model file."""
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(0)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            input_sentence_size=LINES_AT_MOST,
            max_sentence_length=LONGEST_LINE,
            minloglevel=2,  # errors only
        )
    except RuntimeError as error:
        raise lines.failure or ValueError(_reason(str(error), vocab_size)) from error
    return model.getvalue()


def _reason(message: str, vocab_size: int) -> str:
    for pattern, reason in REASONS.items():
        if match := re.search(pattern, message):
            return reason.format(size=vocab_size, number=match[match.lastindex or 0])
    return f"no vocabulary could be trained: {message}"
