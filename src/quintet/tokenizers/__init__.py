"""Tokenizers of the T5 family, with one calling surface and the reference's files.

T5Tokenizer works on SentencePiece, T5TokenizerFast on the `tokenizers` library, ByT5Tokenizer on bytes. mT5 and UMT5
have vocabularies of their own for the first two.
"""

from tokenizers import AddedToken

from quintet.tokenizers.base import TokenizerBase
from quintet.tokenizers.batch import BatchEncoding, CharSpan, TokenSpan
from quintet.tokenizers.byt5 import ByT5Tokenizer
from quintet.tokenizers.fast import T5TokenizerFast
from quintet.tokenizers.options import PaddingStrategy, TensorType, TruncationStrategy
from quintet.tokenizers.sentencepiece import T5Tokenizer

MT5Tokenizer = T5Tokenizer
MT5TokenizerFast = T5TokenizerFast

__all__ = [
    "AddedToken",
    "BatchEncoding",
    "ByT5Tokenizer",
    "CharSpan",
    "MT5Tokenizer",
    "MT5TokenizerFast",
    "PaddingStrategy",
    "T5Tokenizer",
    "T5TokenizerFast",
    "TensorType",
    "TokenSpan",
    "TokenizerBase",
    "TruncationStrategy",
]
