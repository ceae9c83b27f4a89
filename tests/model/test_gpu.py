"""On a CUDA device: the numbers of the CPU. Skipped where there is none."""

import pytest
import torch

import quintet

from .reference import HEADS, make_batch, make_pair

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5"])
@pytest.mark.parametrize("head", HEADS)
def test_outputs_agree_with_the_cpu(head: str, variant: str, backend: str) -> None:
    model = make_pair(head, variant, backend).ours
    batch = make_batch(head, "left")
    with torch.no_grad():
        expected = model(**batch)[0]
        given = {name: value.cuda() for name, value in batch.items()}
        found = model.cuda()(**given)[0].cpu()
    if "decoder_attention_mask" in batch:  # a query that may see nothing has no defined answer
        seen = batch["decoder_attention_mask"].bool()
        expected, found = expected[seen], found[seen]
    assert torch.allclose(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5"])
def test_gradients_agree_with_the_cpu(variant: str) -> None:
    model = make_pair("ForConditionalGeneration", variant).ours
    batch = make_batch("ForConditionalGeneration")
    model(**batch).logits.square().mean().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.cuda()(**{name: value.cuda() for name, value in batch.items()}).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad.cpu(), expected[name], atol=1e-3, rtol=1e-2), name


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_runs_on_the_device(cache: str, tmp_path) -> None:
    model = make_pair("ForConditionalGeneration").ours
    ids = make_batch("ForConditionalGeneration")["input_ids"]
    expected = model.generate(ids, max_new_tokens=6)
    model.save_pretrained(tmp_path)
    loaded = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, device_map="cuda")
    assert loaded.device.type == "cuda"
    answer = loaded.generate(ids.cuda(), max_new_tokens=6, cache_implementation=cache)
    assert torch.equal(answer.cpu(), expected)
