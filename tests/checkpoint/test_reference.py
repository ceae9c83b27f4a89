"""The reference reads what is written here, and what it writes is read here."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from quintet.checkpoint import save_tensors

from .tiny import assert_same, opened, read, snapshot

FORMS = {
    "single": {},
    "sharded": {"max_shard_size": "20KB"},
    "bin": {"safe_serialization": False},
    "sharded bin": {"safe_serialization": False, "max_shard_size": "20KB"},
    "variant": {"variant": "fp16"},
    "sharded variant": {"variant": "fp16", "max_shard_size": "20KB"},
}


def model(*, tied: bool = False) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=64,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_heads=3,
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).to(torch.bfloat16)


def untied_tensors(reference: T5ForConditionalGeneration) -> dict[str, torch.Tensor]:
    """What the reference's save keeps of the state: each storage once, under the name that it would choose."""
    seen: dict[int, str] = {}
    for name, tensor in reference.state_dict().items():
        seen.setdefault(tensor.data_ptr(), name)
    return {name: tensor for name, tensor in reference.state_dict().items() if name in seen.values()}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_the_reference_writes_is_read(tmp_path, tied, options):
    reference = model(tied=tied)
    reference.save_pretrained(tmp_path, **options)
    tensors = read(tmp_path, variant=options.get("variant"))
    state = reference.state_dict()
    assert {tensor.data_ptr() for tensor in state.values()} == {state[name].data_ptr() for name in tensors}
    assert_same(tensors, {name: state[name] for name in tensors})


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_reference_reads_what_is_written(tmp_path, tied, options):
    reference = model(tied=tied)
    reference.config.save_pretrained(tmp_path)
    save_tensors(untied_tensors(reference), tmp_path, **options)
    again, info = T5ForConditionalGeneration.from_pretrained(
        tmp_path, variant=options.get("variant"), dtype="auto", output_loading_info=True
    )
    assert not any(info.values())
    assert_same(again.state_dict(), reference.state_dict())


@pytest.mark.parametrize("form", ["single", "sharded", "variant", "sharded variant"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_files_are_the_references_byte_for_byte(tmp_path, tied, form):
    reference = model(tied=tied)
    reference.save_pretrained(tmp_path / "theirs", **FORMS[form])
    for companion in ("config.json", "generation_config.json"):
        (tmp_path / "theirs" / companion).unlink()
    save_tensors(untied_tensors(reference), tmp_path / "ours", **FORMS[form])
    assert snapshot(tmp_path / "ours") == snapshot(tmp_path / "theirs")


def test_a_real_checkpoint(shared):
    """FLAN-T5-small: every tensor as the reference loads it."""
    folder = shared / "models" / "flan-t5-small-title"
    reference = T5ForConditionalGeneration.from_pretrained(folder, dtype="auto").state_dict()
    checkpoint = opened(folder)
    assert len(checkpoint) == 190
    assert checkpoint.nbytes == 153_922_304
    for name in checkpoint:
        assert torch.equal(checkpoint.tensor(name), reference[name]), name
