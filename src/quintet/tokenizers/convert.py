"""The fast tokenizer's backend built from a SentencePiece model file."""

from __future__ import annotations

import logging

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from quintet.tokenizers.sentinels import sentinel_tokens
from quintet.tokenizers.spm_model import UNIGRAM, SentencePieceModel, read_model_file

logger = logging.getLogger(__name__)

_WORD_START = "▁"


def backend_from_model_file(
    path: str, *, eos_token: str, extra_ids: int, add_prefix_space: bool, legacy: bool
) -> Tokenizer:
    """A backend that gives the ids of the SentencePiece model at `path`, which sentinels follow.

    Follows the reference's conversion, with which a vocabulary of byte fallback (mT5, UMT5) has the unknown token for
    characters that it lacks, where SentencePiece spells out their bytes. Raises OSError for a damaged file,
    ValueError for a model that is not of the unigram kind.
    """
    model = SentencePieceModel.parse(read_model_file(path))
    if model.model_type != UNIGRAM:
        raise ValueError(
            f"{path} is not a unigram model, the kind that T5 has: T5TokenizerFast cannot be built from it; "
            "T5Tokenizer reads it."
        )
    if model.byte_fallback:
        logger.warning(
            "%s spells characters that it lacks as bytes. T5TokenizerFast makes them the unknown token, as the "
            "reference does; T5Tokenizer keeps them.",
            path,
        )
    sentinels = [(token, 0.0) for token in reversed(sentinel_tokens(extra_ids))]
    tokenizer = Tokenizer(Unigram(model.pieces + sentinels, unk_id=model.unk_id, byte_fallback=False))
    special = set(model.control_ids)
    tokenizer.add_tokens(
        [
            AddedToken(model.pieces[i][0], normalized=False, special=i in special)
            for i in sorted(model.control_ids + model.user_defined_ids)
        ]
    )
    scheme = "never" if not add_prefix_space else "always" if legacy else "first"
    tokenizer.normalizer = _normalizer(model.charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement=_WORD_START, prepend_scheme=scheme)
    eos_id = tokenizer.token_to_id(eos_token)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", eos_token],
        pair=["$A", eos_token, "$B", eos_token],
        special_tokens=[(eos_token, model.unk_id if eos_id is None else eos_id)],
    )
    return tokenizer


def _normalizer(charsmap: bytes) -> normalizers.Normalizer:
    """SentencePiece's own character map, if the model has one, then its rules for spaces."""
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), _WORD_START)]
    return normalizers.Sequence([normalizers.Precompiled(charsmap), *spaces] if charsmap else spaces)
