"""Tokenizers outside a single call: imports, pickling, threads, sampling, long texts."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quintet.tokenizers import T5Tokenizer, T5TokenizerFast

from .oracle import Pair, byt5_pair, load_pair


def test_importing_loads_neither_torch_nor_the_reference() -> None:
    program = (
        "import sys, quintet.tokenizers as t\n"
        "assert t.ByT5Tokenizer()(['a', 'bc'], padding=True, return_tensors='np').input_ids.shape == (2, 3)\n"
        "found = {'torch', 'transformers', 'google.protobuf', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_copies(t5: Pair, t5_folder: Path) -> None:
    for again in (pickle.loads(pickle.dumps(t5.ours)), copy.deepcopy(t5.ours)):
        assert again("a <extra_id_0> b", padding="max_length", max_length=9) == t5.ours(
            "a <extra_id_0> b", padding="max_length", max_length=9
        )
        again.add_tokens("<new>")
        assert len(again) == 32101
    assert len(t5.ours) == 32100
    assert pickle.loads(pickle.dumps(byt5_pair().ours)).encode("a") == [100, 1]


def test_pickled_tokenizers_need_no_file(t5_folder: Path, tmp_path: Path) -> None:
    for legacy in (True, False):
        file = tmp_path / "spiece.model"
        file.write_bytes((t5_folder / "spiece.model").read_bytes())
        ours = T5Tokenizer(str(file), legacy=legacy)
        pickled = pickle.dumps(ours)
        file.unlink()
        assert pickle.loads(pickled).encode("<extra_id_0>. Hello") == ours.encode("<extra_id_0>. Hello")


def test_calls_do_not_change_the_pickle(t5: Pair) -> None:
    """datasets caches results by it."""
    before = pickle.dumps(t5.ours)
    t5.ours(["a", "b c"], padding="max_length", truncation=True, max_length=9)
    t5.ours.decode([5], skip_special_tokens=True)
    assert pickle.dumps(t5.ours) == before


def test_threads_with_settings_of_their_own(fast: Pair) -> None:
    """The backend keeps padding and truncation as state, which calls at the same time would mix up."""
    texts = ["a b c d e f g h i j"] * 20

    def call(length: int) -> set[int]:
        batch = fast.ours(texts, padding="max_length", truncation=True, max_length=length)
        assert fast.ours.batch_decode(batch["input_ids"], skip_special_tokens=True)
        return {len(row) for row in batch["input_ids"]}

    lengths = [5 + i % 30 for i in range(240)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, lengths)) == [{length} for length in lengths]


@pytest.mark.parametrize("legacy", [True, False])
def test_sampling(legacy: bool, t5_folder: Path) -> None:
    sampling = {"enable_sampling": True, "nbest_size": -1, "alpha": 0.1}
    ours = T5Tokenizer.from_pretrained(t5_folder, legacy=legacy, sp_model_kwargs=sampling)
    text = "The house is wonderful and the garden too"
    tokenized = {tuple(ours.tokenize(text)) for _ in range(20)}
    assert len(tokenized) > 1
    assert {ours.convert_tokens_to_string(list(tokens)) for tokens in tokenized} == {text}
    assert pickle.loads(pickle.dumps(ours)).sp_model_kwargs == sampling


def test_long_texts_give_no_warning(t5: Pair, caplog: pytest.LogCaptureFixture) -> None:
    assert len(t5.ours("word " * 2000)["input_ids"]) == 2001
    assert not caplog.records


def test_a_backend_of_one_s_own(fast: Pair) -> None:
    ours = T5TokenizerFast(tokenizer_object=fast.ours.backend_tokenizer)
    assert ours.encode("Hello <extra_id_0>") == fast.ours.encode("Hello <extra_id_0>")
    ours.add_tokens("<new>")
    assert len(fast.ours) == 32100


def test_a_tokenizer_is_true(t5: Pair) -> None:
    assert t5.ours
    assert t5.ours.is_fast == t5.theirs.is_fast


def test_another_class_is_mentioned(t5_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    byt5_pair().ours.save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes((t5_folder / "spiece.model").read_bytes())
    T5Tokenizer.from_pretrained(tmp_path, extra_ids=125)
    assert "was saved by ByT5Tokenizer and is loaded as T5Tokenizer" in caplog.text
    caplog.clear()
    load_pair("MT5TokenizerFast", t5_folder)
    assert not [record for record in caplog.records if record.name.startswith("quintet")]
