"""When the native engine computes, and when it leaves a model to its own layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import quintet
from quintet.engine import library as native_library
from quintet.model.engines import LONGEST_SOURCE, EagerEngine, NativeEngine, Wanted, choose_engine
from quintet.model.init import Linear
from quintet.model.inputs import Inputs
from quintet.outputs import BaseModelOutput
from quintet.quantize import QuantizationConfig
from tests.engine.models import HEAD, eager, make_model, random_ids, relative_error
from tests.model.reference import SIZES, make_batch

IDS = random_ids(2, 7)


def engine_of(model: Any, wanted: Wanted | None = None, **inputs: Any) -> type:
    return type(choose_engine(model, Inputs(**{"input_ids": IDS, **inputs}), wanted))


def own_query(model: Any) -> Any:
    return model.encoder.block[0].layer[0].SelfAttention.q


@torch.no_grad()
def first_logits(model: Any) -> torch.Tensor:
    """The scores (rows, vocabulary) of the first token."""
    found = model.generate(input_ids=IDS, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
    return found.logits[0]


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model,
        lambda model: model.requires_grad_(False),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.train().eval(),
        lambda model: copy.deepcopy(model),
        lambda model: own_query(model).register_forward_hook(lambda *_: None).remove(),
    ],
    ids=["plain", "frozen", "bfloat16", "train-eval", "copied", "hook-removed"],
)
def test_what_native_code_computes(change: Callable[[Any], Any]) -> None:
    model = make_model()
    assert engine_of(change(model) or model) is NativeEngine


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class MyLinear(Linear):
    """May compute anything."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return -super().forward(input)


def _subclassed(model: Any) -> None:
    layer = MyLinear(SIZES["d_model"], SIZES["num_heads"] * SIZES["d_kv"], bias=False)
    layer.weight = own_query(model).weight
    model.encoder.block[0].layer[0].SelfAttention.q = layer


def _spread(model: Any) -> None:
    weight = own_query(model).weight.detach()
    own_query(model).weight = nn.Parameter(weight.t().contiguous().t())


def _with_bias(model: Any) -> None:
    own_query(model).bias = nn.Parameter(torch.ones(SIZES["num_heads"] * SIZES["d_kv"]))


def _with_forward(model: Any) -> None:
    own_query(model).forward = lambda hidden: torch.zeros(*hidden.shape[:-1], SIZES["num_heads"] * SIZES["d_kv"])


CHANGES: dict[str, Callable[[Any], Any]] = {
    "training": lambda model: model.train(),
    "float16": lambda model: model.half(),
    "float64": lambda model: model.double(),
    "one-float16": lambda model: own_query(model).half(),
    "mixed": lambda model: own_query(model).to(torch.bfloat16),
    "hook": lambda model: own_query(model).register_forward_hook(lambda *_: None),
    "pre-hook": lambda model: model.decoder.register_forward_pre_hook(lambda *_: None),
    "subclassed": _subclassed,
    "parametrized": lambda model: parametrize.register_parametrization(own_query(model), "weight", Doubled()),
    "pruned": lambda model: prune.random_unstructured(own_query(model), "weight", 0.5),
    "pruned-heads": lambda model: model.encoder.block[0].layer[0].SelfAttention.prune_heads([1]),
    "spread": _spread,
    "bias": _with_bias,
    "replaced-forward": _with_forward,
    "foreign": lambda model: setattr(model.decoder.block[0].layer[2].DenseReluDense, "act", Doubled()),
    "eager": lambda model: setattr(model, "engine", "eager"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_models_that_compute_by_themselves(change: str) -> None:
    model = make_model()
    assert engine_of(model) is NativeEngine
    CHANGES[change](model)
    assert engine_of(model) is EagerEngine


@pytest.mark.parametrize("values", [{"d_kv": 257, "num_heads": 1}, {"feed_forward_proj": "tanh"}])
def test_sizes_and_activations_there_are_no_kernels_for(values: dict[str, Any]) -> None:
    assert engine_of(make_model(**values)) is EagerEngine


def test_adapters_compute_by_themselves() -> None:
    peft = pytest.importorskip("peft")
    model = make_model()
    before = first_logits(model)
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q", "v"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    assert engine_of(adapted.base_model.model) is EagerEngine
    assert relative_error(first_logits(adapted), before) > 0.01
    merged = adapted.merge_and_unload()
    assert engine_of(merged) is NativeEngine
    with eager(merged):
        expected = first_logits(merged)
    assert relative_error(first_logits(merged), expected) < 1e-4


def test_hooks_of_all_modules() -> None:
    seen: list[Any] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        assert engine_of(make_model()) is EagerEngine
    finally:
        handle.remove()
    assert engine_of(make_model()) is NativeEngine


def test_autocast() -> None:
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        assert engine_of(model) is EagerEngine


def test_compiled_models() -> None:
    """A compiler sees the layers; `generate`, which is not compiled, stays native."""
    model, batch = make_model(head="EncoderModel"), make_batch("EncoderModel")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        with eager(model):
            expected = model(**batch).last_hidden_state
        assert torch.equal(compiled(**batch).last_hidden_state, expected)
    whole = make_model()
    assert torch.equal(first_logits(torch.compile(whole, backend="eager")), first_logits(whole))


def test_exported_models() -> None:
    model = make_model(head="EncoderModel", return_dict=False).requires_grad_(False)
    exported = torch.export.export(model, (IDS, torch.ones_like(IDS))).module()
    other, mask = random_ids(2, 7, seed=5), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    assert relative_error(exported(other, mask)[0], model(other, mask)[0]) < 1e-5


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [Wanted(attentions=True), Wanted(states=True), Wanted(use_cache=False), Wanted(is_static=True)],
    ids=["attentions", "states", "no-cache", "static-cache"],
)
def test_calls_that_want_what_only_the_layers_have(wanted: Wanted) -> None:
    assert engine_of(make_model(), wanted) is EagerEngine


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"output_attentions": True}, "cross_attentions"),
        ({"output_hidden_states": True}, "decoder_hidden_states"),
        ({"cache_implementation": "static"}, "past_key_values"),
    ],
)
def test_generate_asks_for_them(options: dict[str, Any], field: str) -> None:
    model = make_model()
    plain = model.generate(IDS, max_new_tokens=4, return_dict_in_generate=True)
    assert getattr(plain, field) is None
    found = model.generate(IDS, max_new_tokens=4, return_dict_in_generate=True, **options)
    assert getattr(found, field) is not None
    assert torch.equal(found.sequences, plain.sequences)


HEADS = torch.ones(SIZES["num_layers"], SIZES["num_heads"])
MASKED = torch.tensor([[1] * 7, [0] * 7])


@pytest.mark.parametrize(
    "inputs",
    [
        {"head_mask": HEADS},
        {"decoder_head_mask": HEADS},
        {"cross_attn_head_mask": HEADS},
        {"decoder_attention_mask": torch.tensor([[1, 1], [0, 1]])},
        {"attention_mask": MASKED},
        {"attention_mask": torch.full((2, 7), 0.5)},
        {"attention_mask": torch.ones(2, 7, 7)},
        {"input_ids": torch.zeros(1, LONGEST_SOURCE + 1, dtype=torch.long)},
        {"input_ids": None, "inputs_embeds": nn.Parameter(torch.zeros(1, 3, SIZES["d_model"]))},
    ],
    ids=["heads", "decoder-heads", "cross-heads", "targets", "all-padding", "half", "pairs", "too-long", "parameter"],
)
def test_inputs_only_the_layers_take(inputs: dict[str, Any]) -> None:
    assert engine_of(make_model(), **inputs) is EagerEngine


@pytest.mark.parametrize(
    "inputs",
    [
        {"decoder_attention_mask": torch.ones(2, 3)},
        {"attention_mask": torch.tensor([[1] * 7, [0] * 6 + [1]])},
        {"attention_mask": torch.ones(2, 7, dtype=torch.bool)},
        {"input_ids": torch.zeros(1, LONGEST_SOURCE, dtype=torch.long)},
        {"input_ids": None, "inputs_embeds": torch.zeros(1, 3, SIZES["d_model"])},
        {"input_ids": None, "encoder_outputs": BaseModelOutput(torch.zeros(1, 3, SIZES["d_model"]))},
    ],
    ids=["targets", "padding", "bool", "long", "embeds", "encoded"],
)
def test_inputs_native_code_takes(inputs: dict[str, Any]) -> None:
    assert engine_of(make_model(), **inputs) is NativeEngine


def test_a_source_of_padding_alone_is_generated_from_as_ever() -> None:
    model = make_model()
    found = model.generate(IDS, attention_mask=MASKED, max_new_tokens=5)
    with eager(model):
        assert torch.equal(found, model.generate(IDS, attention_mask=MASKED, max_new_tokens=5))


@pytest.mark.parametrize(
    "inputs",
    [
        {"inputs": torch.tensor([[5, 99]])},
        {"decoder_input_ids": torch.tensor([[0, 99], [0, 1]])},
        {"decoder_input_ids": torch.tensor([[0, -1], [0, 1]])},
        {"attention_mask": torch.ones(2, 6)},
        {"inputs": None, "encoder_outputs": (torch.zeros(1, 3, 31),)},
        {"inputs": None, "encoder_outputs": (torch.zeros(1, 3, 32),), "attention_mask": torch.ones(1, 4)},
    ],
    ids=["source", "prefix", "negative", "mask", "encoded", "mask of encoded"],
)
def test_generate_refuses_in_the_words_of_the_model(inputs: dict[str, Any]) -> None:
    model, said = make_model(), []
    for engine in ("auto", "eager"):
        model.engine = engine
        with pytest.raises((ValueError, IndexError)) as raised:
            model.generate(**{"inputs": IDS, **inputs}, max_new_tokens=3)
        said.append(str(raised.value))
    assert said[0] == said[1]


# -- weights that change -----------------------------------------------------------------------------------------------


def _double_in_place(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


def _replace(model: Any) -> None:
    own_query(model).weight = nn.Parameter(own_query(model).weight.detach() * -3)


def _load(model: Any) -> None:
    model.load_state_dict({name: tensor * 1.5 for name, tensor in model.state_dict().items()})


def _assign(model: Any) -> None:
    model.load_state_dict({name: tensor * 1.5 for name, tensor in model.state_dict().items()}, assign=True)


def _bias_in_place(model: Any) -> None:
    model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data.mul_(-1)


def _swap_layers(model: Any) -> None:
    model.decoder.block[0], model.decoder.block[1] = model.decoder.block[1], model.decoder.block[0]
    model.decoder.block[0].layer[0], model.decoder.block[1].layer[0] = (
        model.decoder.block[1].layer[0],
        model.decoder.block[0].layer[0],
    )


def _head(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().flip(0))


@pytest.mark.parametrize("change", [_double_in_place, _replace, _load, _assign, _bias_in_place, _swap_layers, _head])
def test_weights_that_change_between_calls(change: Callable[[Any], None]) -> None:
    model = make_model("v1.1")
    before = first_logits(model)
    with torch.no_grad():
        change(model)
    assert engine_of(model) is NativeEngine
    after = first_logits(model)
    with eager(model):
        expected = first_logits(model)
    assert relative_error(before, expected) > 1e-3
    assert relative_error(after, expected) < 1e-4


def test_a_vocabulary_that_grows_between_calls() -> None:
    model = make_model()
    first_logits(model)
    model.resize_token_embeddings(120)
    assert engine_of(model) is NativeEngine
    after = first_logits(model)
    with eager(model):
        expected = first_logits(model)
    assert after.shape == (2, 120)
    assert relative_error(after, expected) < 1e-4


def test_weights_trained_between_calls() -> None:
    model = make_model()
    before = first_logits(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    after = first_logits(model)
    with eager(model):
        expected = first_logits(model)
    assert relative_error(before, expected) > 1e-3
    assert relative_error(after, expected) < 1e-4


# -- the argument, and the installation --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path)
    return tmp_path


def test_the_engine_is_chosen_where_a_model_is_loaded(folder: Path) -> None:
    load = getattr(quintet, f"T5{HEAD}").from_pretrained
    assert engine_of(load(folder)) is NativeEngine
    assert engine_of(load(folder, engine="auto")) is NativeEngine
    assert engine_of(load(folder, engine="eager")) is EagerEngine
    assert engine_of(quintet.AutoModelForSeq2SeqLM.from_pretrained(folder, engine="eager")) is EagerEngine


def test_unknown_engines_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="engine must be 'auto' or 'eager', got 'nonsense'"):
        quintet.T5ForConditionalGeneration.from_pretrained(folder, engine="nonsense")
    with pytest.raises(ValueError, match="engine must be 'auto' or 'eager', got 'nonsense'"):
        make_model().engine = "nonsense"


def test_a_model_within_a_model_has_its_engine() -> None:
    config = quintet.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    model = quintet.T5ForTokenClassification(config).eval()
    assert (model.engine, model.transformer.engine) == ("auto", "auto")
    model.engine = "eager"
    assert model.transformer.engine == "eager"


def test_an_installation_without_the_library(monkeypatch, caplog, tmp_path: Path) -> None:
    model = make_model()
    native = model.generate(IDS, max_new_tokens=5)
    monkeypatch.setattr(native_library, "PATH", tmp_path / "none.so")
    native_library.load_library.cache_clear()
    try:
        assert engine_of(model) is EagerEngine
        assert torch.equal(model.generate(IDS, max_new_tokens=5), native)
        assert [record.getMessage() for record in caplog.records] == [
            "the native engine was not built (no C++ compiler?): models compute with PyTorch's operations"
        ]
    finally:
        native_library.load_library.cache_clear()


# -- rounded weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        "int8",
        QuantizationConfig(4),
        QuantizationConfig(4, group_size=16),
        QuantizationConfig(8, vocabulary_bits=8),
        QuantizationConfig(4, vocabulary_bits=8),
    ],
    ids=["int8", "int4", "int4 in groups", "int8 with vocabulary", "int4, vocabulary int8"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["", "bfloat16"])
def test_rounded_models_run_natively(folder: Path, config: Any, dtype: torch.dtype) -> None:
    model = quintet.T5ForConditionalGeneration.from_pretrained(folder, quantization_config=config, dtype=dtype)
    assert engine_of(model) is NativeEngine
    with eager(model):
        expected = first_logits(model)
    assert 0 < relative_error(first_logits(model), expected) < 0.05


@pytest.mark.parametrize(
    ("values", "config"),
    [({"d_model": 36}, QuantizationConfig(4)), ({}, QuantizationConfig(8, group_size=16))],
    ids=["int4 of 36 inputs", "int8 in groups"],
)
def test_rounded_models_there_are_no_kernels_for(tmp_path: Path, values: dict[str, Any], config: Any) -> None:
    make_model(**values).save_pretrained(tmp_path)
    model = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, quantization_config=config)
    assert engine_of(model) is EagerEngine
    assert first_logits(model).isfinite().all()


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_that_lie_apart(folder: Path, bits: int) -> None:
    """They are read where they are, one behind the other; the layers take any."""
    model = quintet.T5ForConditionalGeneration.from_pretrained(folder, quantization_config=QuantizationConfig(bits))
    expected = first_logits(model)
    scale = own_query(model).weight_scale
    scale.data = torch.stack([scale, -scale], dim=-1)[..., 0]
    assert not scale.is_contiguous()
    assert engine_of(model) is EagerEngine
    assert relative_error(first_logits(model), expected) < 0.05
