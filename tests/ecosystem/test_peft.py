"""peft: adapters on quintet's models are those of the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from ..model.reference import make_batch, make_pair
from .batches import BATCH, HEAD, SOURCE

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q", "v"]}


def with_lora(model: Any, task: str = "SEQ_2_SEQ_LM", **changes: Any) -> Any:
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(task_type=task, **{**LORA, **changes}))


def train(model: Any, steps: int = 15) -> list[float]:
    """The losses; in evaluation mode, because dropout hides whether they fall."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = model(**BATCH).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def trained() -> Any:
    model = with_lora(make_pair(HEAD, "v1.1", "sdpa").ours)
    train(model)
    return model


@pytest.fixture(scope="module")
def adapter(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    trained.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**BATCH).logits


def test_training_changes_the_adapters_alone_and_lowers_the_loss() -> None:
    pair = make_pair(HEAD, "v1.1", "sdpa")
    model = with_lora(pair.ours)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    losses = train(model)
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed
    assert changed == {name for name in before if "lora_" in name}
    # As many places as in the reference, trained to the same losses.
    theirs = with_lora(pair.theirs)
    assert changed == {name for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    assert losses == pytest.approx(train(theirs), rel=1e-3)


def test_an_adapter_works_in_both_libraries(trained: Any, adapter: Path) -> None:
    ours, theirs = make_pair(HEAD, "v1.1", "sdpa")
    plain = logits(ours)
    for model in (ours, theirs):
        torch.testing.assert_close(
            logits(peft.PeftModel.from_pretrained(model, adapter)), logits(trained), atol=1e-4, rtol=1e-4
        )
    assert not torch.allclose(plain, logits(trained), atol=0.1)


def test_merged_weights_answer_as_the_adapter(trained: Any, adapter: Path, tmp_path: Path) -> None:
    model = peft.PeftModel.from_pretrained(make_pair(HEAD, "v1.1", "sdpa").ours, adapter)
    expected, tokens = logits(model), model.generate(**SOURCE, max_new_tokens=8)
    merged = model.merge_and_unload()
    assert torch.equal(merged.generate(**SOURCE, max_new_tokens=8), tokens)
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_that_is_switched_off(trained: Any) -> None:
    with trained.disable_adapter():
        assert torch.equal(logits(trained), logits(make_pair(HEAD, "v1.1", "sdpa").ours))


@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("EncoderModel", "FEATURE_EXTRACTION"),
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
        ("ForQuestionAnswering", "QUESTION_ANS"),
    ],
)
def test_other_heads(head: str, task: str) -> None:
    """Adapters with random weights, as a trained one would have."""
    outputs = []
    for model in make_pair(head, "t5", "sdpa"):
        adapted = with_lora(model, task, init_lora_weights=False).eval()
        with torch.no_grad():
            outputs.append(adapted(**make_batch(head))[0])
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)


def test_a_gradient_reaches_adapters_through_checkpoints() -> None:
    gradients = []
    for model in make_pair(HEAD, "v1.1", "sdpa", dropout_rate=0.0):
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
        adapted = with_lora(model, init_lora_weights=False).train()
        adapted(**BATCH, use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [peft.PromptTuningConfig, peft.PromptEncoderConfig], ids=["prompt", "p-tuning"])
def test_prompt_tuning(kind: Any) -> None:
    options = {"encoder_hidden_size": 16} if kind is peft.PromptEncoderConfig else {}
    results = []
    for model in make_pair(HEAD, "v1.1", "sdpa"):
        torch.manual_seed(0)
        config = kind(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4, **options)
        prompted = peft.get_peft_model(model, config).eval()
        results.append((logits(prompted), prompted.generate(**SOURCE, max_new_tokens=6, num_beams=1)))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


def test_prefix_tuning_is_refused() -> None:
    """It brings caches of transformers."""
    pair = make_pair(HEAD, "v1.1", "sdpa")
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
    with pytest.raises(TypeError, match=r"must be a quintet\.EncoderDecoderCache, got transformers\.cache_utils"):
        peft.get_peft_model(pair.ours, config)(**BATCH)
