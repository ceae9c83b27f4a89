"""The ids that stand for spans of text in pre-training, in the order in which they are used."""

from __future__ import annotations

from itertools import count

import numpy as np

from quintet.tokenizers import ByT5Tokenizer
from quintet.tokenizers.base import TokenizerBase

_BYT5_SENTINELS = 100


def sentinel_ids(tokenizer: TokenizerBase) -> np.ndarray:
    """The sentinels' ids (sentinels,), as the published checkpoints were pre-trained with them; they count down.

    T5: 32099, 32098, ...; mT5 from 250099, where they are pieces of the vocabulary; UMT5 from 256299. ByT5 was
    pre-trained with its last 100 byte ids, 258 down to 159: the bytes from 245 up never occur in UTF-8. The tokens
    <extra_id_0> ... that its tokenizer has from 259 on came later, and those checkpoints have never seen them.

    Raises ValueError for a tokenizer without sentinels.
    """
    if isinstance(tokenizer, ByT5Tokenizer):
        last = tokenizer.offset + tokenizer.vocab_size - 1
        return np.arange(last, last - _BYT5_SENTINELS, -1)
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    for number in count():
        name = f"<extra_id_{number}>"
        token_id = vocabulary.get(name, vocabulary.get("▁" + name))
        if token_id is None:
            break
        found.append(token_id)
    if not found:
        raise ValueError("the tokenizer has no sentinels (<extra_id_0>, ...), which span corruption needs")
    return np.array(found)
