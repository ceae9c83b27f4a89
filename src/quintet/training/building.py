"""From settings to a run: model, tokenizer, data, optimiser, put together here and nowhere else."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from quintet.auto import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
from quintet.config import T5Config
from quintet.model.heads import T5ForConditionalGeneration
from quintet.model.memory import keep_freed_memory
from quintet.quantize import QuantizationConfig
from quintet.tokenizers.base import TokenizerBase
from quintet.training.adapters import add_adapters
from quintet.training.config import (
    LEARNING_RATES,
    AnyConfig,
    BatchConfig,
    CorpusConfig,
    ModelConfig,
    OptimizerConfig,
    check,
)
from quintet.training.data.batching import Ahead, BucketedBatches, PackedBatches, window_of
from quintet.training.data.buckets import Limits
from quintet.training.data.collators import PackingCollator, PaddingCollator
from quintet.training.data.stream import Stream
from quintet.training.evaluation import Evaluator
from quintet.training.loop import LossOfBatch, Run
from quintet.training.optimizers import Adafactor, ScaledAdamW, freeze, parameter_groups
from quintet.training.parallel import World, spread
from quintet.training.rounding import Rounding
from quintet.training.schedules import schedule
from quintet.training.sets import cache_folder, held_out_sets, training_stream

logger = logging.getLogger(__name__)

VOCABULARY_MULTIPLE = 128
"""The rows of a vocabulary drawn anew are rounded up to it, as T5's are: 32,100 pieces, 32,128 rows."""

PRODUCT_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
KEPT_PRODUCTS = 32
"""Of so many products compiled code is kept: as many as a layer of a decoder has, forward and back, so that the next
layer finds its own. With 16, a step of FLAN-T5-small compiled 130 products, with 24 or more 42 (oneDNN's own log)."""


def build_run(config: AnyConfig, world: World) -> Run:
    """Everything the loop needs, ready for the first step.

    On a CPU the process keeps from here on the memory that it frees, and the compiled code of fewer products.

    Raises ValueError for settings that contradict each other, data that is empty or wrong (file and line are named),
    metrics that are none; OSError for files that are missing.
    """
    check(config)
    _warn_of_slow_products(config, world)
    _forget_products()
    if world.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.run.seed)  # weights drawn anew are the same in every process
    tokenizer = load_tokenizer(config.model)
    cache = cache_folder(config.run)
    stream = training_stream(config, tokenizer, cache)
    evaluator = _evaluator(config, tokenizer, cache, world)
    model = load_model(config.model, tokenizer)
    adapters = add_adapters(model, config.model) if config.model.lora_rank is not None else None
    _prepare(model, config, world)
    batches, collate = _batches(config, stream, model.config, world)
    network = _network(model, config, world)
    optimizer, peak = build_optimizer(config.optimizer, model)
    factor = schedule(config.optimizer.lr_scheduler_type, config.optimizer.warmup_steps, config.optimizer.max_steps)
    return Run(
        config=config,
        world=world,
        model=model,
        network=network,
        tokenizer=tokenizer,
        batches=batches,
        collate=collate,
        optimizer=optimizer,
        learning_rate=lambda step: peak * factor(step),
        precision=_precision(config, world),
        rounding=Rounding(model, _quantization(config.model)),
        examples_per_epoch=sum(len(one) for one in stream.sets),
        evaluator=evaluator,
        adapters=adapters,
    )


def _warn_of_slow_products(config: AnyConfig, world: World) -> None:
    """PyTorch has no fast products of bfloat16 for processors that have AVX2 and not AVX-512."""
    is_half = config.run.bf16 or config.model.dtype == "bfloat16"
    if is_half and world.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        logger.warning(
            "this processor multiplies in bfloat16 some 100 times more slowly than in float32: train without bf16"
        )


def _forget_products() -> None:
    """Let PyTorch keep the compiled code of the latest products on a CPU, and not of 1,024.

    Each length of a batch has code of its own, most of a megabyte: 400 MB after 40 batches of a small model. Steps are
    little slower (with AMX by up to 7%). oneDNN reads these variables at the process's first product; what is set
    outside is left.
    """
    for name in PRODUCT_CACHES:
        os.environ.setdefault(name, str(KEPT_PRODUCTS))


def load_tokenizer(config: ModelConfig) -> TokenizerBase:
    """The tokenizer, of the model if no other is named."""
    name = config.tokenizer_name or config.model_name_or_path or config.config_name
    return AutoTokenizer.from_pretrained(cast(str, name))


def load_model(config: ModelConfig, tokenizer: TokenizerBase) -> T5ForConditionalGeneration:
    """The network in the settings' type: loaded, or drawn anew with rows for every token of the tokenizer.

    Raises ValueError for a model that is not for text to text, or that has fewer rows than the tokenizer tokens.
    """
    if config.model_name_or_path is not None:
        overrides = config.config_overrides
        model = AutoModelForSeq2SeqLM.from_pretrained(config.model_name_or_path, dtype=config.dtype, **overrides)
    else:
        model = AutoModelForSeq2SeqLM.from_config(_new_config(config, tokenizer)).to(getattr(torch, config.dtype))
    if model.config.vocab_size < len(tokenizer):
        raise ValueError(f"the model has {model.config.vocab_size} tokens, its tokenizer {len(tokenizer)}")
    return cast(T5ForConditionalGeneration, model)


def _new_config(config: ModelConfig, tokenizer: TokenizerBase) -> T5Config:
    rows = -(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    values = {"vocab_size": rows, **config.config_overrides}
    found: T5Config = AutoConfig.from_pretrained(cast(str, config.config_name), **values)
    if found.decoder_start_token_id is None:
        found.decoder_start_token_id = found.pad_token_id
    return found


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> tuple[torch.optim.Optimizer, float]:
    """The optimiser of the settings, and its peak learning rate."""
    peak = LEARNING_RATES[config.optim] if config.learning_rate is None else config.learning_rate
    groups = parameter_groups(model, config.weight_decay)
    if config.optim == "adafactor":
        options: dict[str, Any] = {"scale_parameter": config.scale_parameter, "relative_step": False}
        return Adafactor(groups, lr=peak, **options), peak
    options = {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    if config.optim == "adamw_scaled":
        return ScaledAdamW(groups, lr=peak, **options), peak
    return torch.optim.AdamW(groups, lr=peak, fused=True, **options), peak


def _quantization(config: ModelConfig) -> QuantizationConfig | None:
    if not config.quantization_config:
        return None
    try:
        return QuantizationConfig(**config.quantization_config)
    except TypeError as error:
        raise ValueError(f"quantization_config: {error}") from error


def _prepare(model: T5ForConditionalGeneration, config: AnyConfig, world: World) -> None:
    model.set_attn_implementation(config.model.attn_implementation)
    freeze(model, config.model.freeze)
    if config.model.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.to(world.device)


def _network(model: T5ForConditionalGeneration, config: AnyConfig, world: World) -> nn.Module:
    network: nn.Module = LossOfBatch(model, config.optimizer.label_smoothing_factor, config.optimizer.z_loss)
    if config.model.torch_compile:
        network.compile(dynamic=True)
    return spread(network, model.stacks, world, config.run.fsdp)


def _batches(config: AnyConfig, stream: Stream, model: T5Config, world: World) -> tuple[Ahead[Any], Any]:
    """The endless batches of all processes together, and what makes tensors of one process's share."""
    batch: BatchConfig = config.batch
    rows = _times(batch.per_device_train_batch_size, world.size)
    if batch.packing:
        lengths = (config.data.max_source_length, cast(int, config.data.max_target_length))
        return Ahead(PackedBatches(stream, cast(int, rows), *lengths)), PackingCollator(model, *lengths)
    limits = Limits(_times(batch.per_device_train_tokens, world.size), rows)
    # Noise is put into a text when its window is filled: that takes time, and gains little where lengths are alike.
    window = window_of(0, limits) if isinstance(config.data, CorpusConfig) else None
    return Ahead(BucketedBatches(stream, limits, window)), PaddingCollator(model)


def _times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor


def _precision(config: AnyConfig, world: World) -> Any:
    return torch.autocast(world.device.type, torch.bfloat16, enabled=config.run.bf16)


def _evaluator(config: AnyConfig, tokenizer: TokenizerBase, cache: Path, world: World) -> Evaluator | None:
    if config.evaluation.eval_steps is None:
        return None
    sets = held_out_sets(config, tokenizer, cache)
    longest = config.data.max_target_length or max(one.examples.longest[1] for one in sets)
    evaluator = Evaluator(
        sets=sets,
        tokenizer=tokenizer,
        batch_size=config.evaluation.per_device_eval_batch_size,
        num_beams=config.evaluation.generation_num_beams,
        max_source_length=config.data.max_source_length,
        max_new_tokens=config.evaluation.generation_max_length or longest,
        precision=_precision(config, world),
    )
    wanted, names = config.evaluation.metric_for_best_model.removeprefix("eval_"), evaluator.names()
    if wanted not in names:
        raise ValueError(f"metric_for_best_model must be one of {', '.join(names)}; got {wanted}")
    return evaluator
