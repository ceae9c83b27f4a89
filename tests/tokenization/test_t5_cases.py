"""The published cases of the T5 vocabulary: text, ids, and the text of those ids."""

import json

from .oracle import Pair


def test_every_case(t5: Pair, t5_folder) -> None:
    cases = json.loads((t5_folder / "cases.json").read_text(encoding="utf-8"))
    texts, ids, decoded = (list(column) for column in zip(*cases, strict=True))
    assert len(cases) == 1995
    assert t5.ours(texts)["input_ids"] == ids
    assert [t5.ours.encode(text) for text in texts[:300]] == ids[:300]
    assert t5.ours.batch_decode(ids) == t5.theirs.batch_decode(ids)
    # The decoded texts are another library's, which puts spaces around special tokens in its own way.
    assert [without_spaces(text) for text in t5.ours.batch_decode(ids)] == [without_spaces(text) for text in decoded]
    without_unknown = [i for i, row in enumerate(ids) if 2 not in row]
    assert len(without_unknown) > 1500
    skipped = t5.ours.batch_decode([ids[i] for i in without_unknown], skip_special_tokens=True)
    assert skipped == [decoded[i].removesuffix("</s>") for i in without_unknown]


def without_spaces(text: str) -> str:
    return text.replace(" ", "")


def test_ids_that_t5_is_known_for(t5: Pair) -> None:
    tokenizer = t5.ours
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 32099
    assert tokenizer.encode("translate English to German: The house is wonderful.") == [
        13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1,
    ]  # fmt: skip
    assert tokenizer.encode("A", "B") == [71, 1, 272, 1]
