"""How the native engine sees a model, and what it leaves to the model itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quintet.engine import CACHE_DTYPES, Library, Plan, Unsupported, load_library
from quintet.model.init import Embedding, Linear
from quintet.model.norm import RMSNorm
from quintet.model.position import relative_position_bucket
from quintet.model.stack import T5Stack
from quintet.quantize import QuantizedEmbedding, QuantizedLinear

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel

ENGINES = ("auto", "eager")
WITH_WEIGHTS = (Linear, Embedding, RMSNorm, QuantizedLinear, QuantizedEmbedding, nn.Linear, nn.Embedding)
"""The layers whose forward pass the engine computes in place of them; subclasses may do something else."""


def check_engine(engine: str) -> str:
    """The name itself; ValueError for one that is no engine's."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be {' or '.join(map(repr, ENGINES))}, got {engine!r}")
    return engine


def check_cache_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype itself, or that of the name; ValueError for one that keys and values cannot be kept as."""
    names = {str(allowed).removeprefix("torch."): allowed for allowed in CACHE_DTYPES}
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in names:
        raise ValueError(f"cache_dtype must be one of {', '.join(names)}, or None, got {dtype!r}")
    return names.get(name)


def is_traced() -> bool:
    """Whether what runs is not a computation but its recording, by a compiler or an exporter."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._len_torch_dispatch_stack() > 0


def native_plan(model: T5PreTrainedModel) -> tuple[Library, Plan]:
    """The library, and the model as it is now described to it.

    Raises Unsupported, which says why, where the model must compute by itself: on another device, in training, under
    a compiler, with hooks or foreign layers, in float16.
    """
    if model.engine == "eager":
        raise Unsupported("engine='eager'")
    _check_surroundings(model)
    library = load_library()
    if library is None:
        raise Unsupported("an installation without the native engine")
    tensors: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        _check_plain(name, module)
        for part, tensor in module._parameters.items():
            if tensor is not None:
                tensors[f"{name}.{part}"] = tensor
    stacks = {"encoder": model.get_encoder(), "decoder": getattr(model, "decoder", None)}
    with torch.no_grad():
        biases = {name: _biases(stack) for name, stack in stacks.items() if stack is not None}
    return library, Plan(model.config, tensors, biases, model.cache_dtype)


def _check_surroundings(model: T5PreTrainedModel) -> None:
    if model.device.type != "cpu":
        raise Unsupported(f"a model on {model.device.type}")
    if model.training:
        raise Unsupported("training mode")
    if torch.is_autocast_enabled("cpu"):
        raise Unsupported("autocast")
    if is_traced():
        raise Unsupported("tracing")
    if nn.modules.module._has_any_global_hook():
        raise Unsupported("hooks of all modules")


def _check_plain(name: str, module: nn.Module) -> None:
    """Unsupported if a call of this module would do something else than its class says."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise Unsupported(f"{name} with hooks")
    own = module._parameters
    if own and type(module) not in WITH_WEIGHTS and not isinstance(module, T5Stack):
        raise Unsupported(f"{name} of {type(module).__name__}")
    if not own and not type(module).__module__.startswith(("quintet.model.", "torch.nn.modules.")):
        raise Unsupported(f"{name} of {type(module).__module__}.{type(module).__name__}")
    if module._buffers or own.get("bias") is not None:
        raise Unsupported(f"{name} with a bias or buffers")


def _biases(stack: T5Stack) -> list[torch.Tensor]:
    """Each layer's position bias (heads, 2 * reach + 1) by key - query; beyond the reach it is the same as there."""
    config = stack.config
    reach = config.relative_attention_max_distance
    buckets = relative_position_bucket(
        torch.arange(-reach, reach + 1), not stack.is_decoder, config.relative_attention_num_buckets, reach
    )
    with_table = stack.blocks if config.position_bias_per_layer else stack.blocks[:1]
    tables = [block.self_attention.relative_attention_bias for block in with_table]
    rows = [table.weight[buckets].float().t().contiguous() for table in tables]
    return rows if config.position_bias_per_layer else rows * len(stack.blocks)
