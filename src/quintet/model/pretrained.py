"""What every model of the family can do besides computing: load, save, tie, resize, count, prune."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from quintet.checkpoint import save_tensors
from quintet.config import T5Config
from quintet.files import staged
from quintet.generation.config import GenerationConfig
from quintet.model import embeddings, loading, restoring
from quintet.model.attention import choose_backend
from quintet.model.init import initialize
from quintet.model.plans import check_cache_dtype, check_engine
from quintet.model.stack import T5Stack
from quintet.quantize import Quantization, QuantizedEmbedding, QuantizedLayer, as_quantization


class T5PreTrainedModel(nn.Module):
    """Base of the models. A subclass builds its network in `__init__` and calls `post_init` at the end."""

    config_class: ClassVar[type[T5Config]] = T5Config
    base_model_prefix: ClassVar[str] = "transformer"
    main_input_name: ClassVar[str] = "input_ids"
    supports_gradient_checkpointing: ClassVar[bool] = True
    unused_in_checkpoint: ClassVar[tuple[str, ...]] = (
        r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",
    )
    """Patterns of names that published checkpoints hold and this model has no use for."""
    _no_split_modules: ClassVar[list[str]] = ["Block"]  # `accelerate` keeps these on one device
    _keep_in_fp32_modules: ClassVar[list[str]] = ["wo"]

    generation_config: GenerationConfig | None = None
    _engine: str = "auto"
    _cache_dtype: torch.dtype | None = None

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        if not isinstance(config, T5Config):
            raise TypeError(f"{type(self).__name__} takes a T5Config, got {type(config).__name__}")
        config.validate()
        config._attn_implementation = choose_backend(config._attn_implementation)
        self.config = config
        self.name_or_path = config.name_or_path

    def post_init(self) -> None:
        """Draw the parameters, tie them, and prune the heads that the configuration names."""
        if not any(parameter.is_meta for parameter in self.parameters()):
            initialize(self, self.config)
        self.tie_weights()
        if self.config.pruned_heads:
            self.prune_heads(self.config.pruned_heads)

    # -- loading and saving --------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: T5Config | str | os.PathLike[str] | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        use_safetensors: bool | None = None,
        variant: str | None = None,
        gguf_file: str | None = None,
        quantization_config: Quantization | Mapping[str, Any] | str | None = None,
        engine: str = "auto",
        cache_dtype: torch.dtype | str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder, a hub repository or a GGUF file, or the one in the package, "quintet-mini".

        It comes in evaluation mode.

        dtype is a torch dtype or its name, "auto" for the checkpoint's, float32 if not given; float16 keeps `wo` in
        float32. device_map is a device, "auto", or a dictionary from modules to devices (`accelerate` is needed for
        more than one). Hub options: revision, cache_dir, token, subfolder, local_files_only, force_download. Further
        keywords override the configuration (num_labels=3). Weights the checkpoint lacks are drawn as before training
        and named in one warning. With `output_loading_info`, returns (model, report) with the keys missing_keys,
        unexpected_keys, mismatched_keys and error_msgs.

        gguf_file names a GGUF file of the folder or repository to load instead of its other weights (the extra `gguf`
        is needed); its header gives the configuration where there is no config.json. Weights of 8-bit floats are
        multiplied by their scales.

        quantization_config is "int8", "int4" or a QuantizationConfig, which round each weight as it is read, so that
        the floats are never all in memory; or a TorchAoConfig, applied to the finished model. A folder that such a
        rounded model was saved into is loaded without it. Embeddings and lm_head are rounded only if a
        QuantizationConfig says so (vocabulary_bits=8).

        engine="auto" lets native code generate, score and encode where it can: on a CPU, in evaluation mode, in float32
        or bfloat16, with rounded weights or without. "eager" always computes with the network's own layers; it can be
        changed later, `model.engine = "eager"`.

        cache_dtype is what the native engine keeps a decoder's keys and values as: float32, bfloat16 or int8, which
        takes the least memory and is read fastest. None: float32 where weights are, else bfloat16. The network's own
        layers keep them in the dtype that they compute in.

        Weights are memory-mapped: a load that changes no dtype reads only what is used. Raises OSError for files that
        are missing or damaged, ValueError for a wrong option or configuration, TypeError for an unknown keyword, and
        RuntimeError for sizes that do not fit unless `ignore_mismatched_sizes`.
        """
        request = loading.Request(
            dtype=dtype if dtype is not None else torch_dtype,
            device_map=device_map,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            use_safetensors=use_safetensors,
            variant=variant,
            gguf_file=gguf_file,
            quantization=as_quantization(quantization_config),
        )
        check_engine(engine)
        cache_dtype = check_cache_dtype(cache_dtype)
        model, report = loading.load(cls, pretrained_model_name_or_path, config, request, kwargs)
        model.engine, model.cache_dtype = engine, cache_dtype
        return (model, report.to_dict()) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> None:
        """Write config.json, the generation configuration, and the weights (safetensors) into a folder.

        All files or none: an interrupted save leaves what was there. Tied weights are written once. In distributed
        training only the main process writes; `state_dict` replaces the model's own. Raises OSError if the disk is
        full or the folder cannot be written, ValueError for a wrong shard size.
        """
        if not is_main_process:
            return
        tensors = self.unique_tensors(self.state_dict() if state_dict is None else state_dict)
        with staged(save_directory) as folder:
            self.save_configuration(folder)
            save_tensors(
                tensors, folder, max_shard_size=max_shard_size, safe_serialization=safe_serialization, variant=variant
            )

    def save_configuration(self, save_directory: str | os.PathLike[str]) -> None:
        """Write what `save_pretrained` writes beside the weights: config.json and the generation configuration."""
        self.config.architectures = [type(self).__name__]
        self.config.dtype = self.dtype
        self.config.save_pretrained(save_directory)
        if self.generation_config is not None:
            self.generation_config.save_pretrained(save_directory)

    def dequantize(self) -> T5PreTrainedModel:
        """Turn rounded weights back into floats, those that the model computes with; returns the model itself.

        It can then be trained, and saved as other libraries read it: in float32 with the very same weights, while in
        narrower dtypes each is rounded to the dtype once more. Raises ValueError for a model that is not quantized.
        """
        restoring.restore_floats(self)
        return self

    def unique_tensors(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A state dict without the second names of tied weights."""
        aliases = self.tied_names()
        return {name: tensor for name, tensor in state.items() if name not in aliases}

    def tied_names(self) -> dict[str, str]:
        """The names that stand for a parameter with another name in the file, and that other name."""
        first: dict[int, str] = {}
        tied: dict[str, str] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            known = first.setdefault(id(parameter), name)
            if known != name:
                tied[name] = known
        return tied

    # -- embeddings ----------------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> embeddings.Table:
        """The token embeddings, which encoder and decoder share."""
        return self._base.shared

    def set_input_embeddings(self, new_embeddings: nn.Embedding) -> None:
        """Replace the token embeddings everywhere; TypeError if they are quantized, or the new ones."""
        embeddings.refuse_quantized(self.get_input_embeddings(), new_embeddings)
        self.place_embeddings(new_embeddings)

    def place_embeddings(self, table: embeddings.Table) -> None:
        """Put a table where the embeddings are, whatever it holds."""
        base = self._base
        base.shared = table
        for stack in (base.encoder, getattr(base, "decoder", None)):
            if stack is not None:
                stack.set_input_embeddings(table)

    def get_output_embeddings(self) -> embeddings.OutputLayer | None:
        """The layer that turns states into scores of tokens, if this model has one."""
        return getattr(self, "lm_head", None)

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output layer; AttributeError for a model without one, TypeError if it is quantized or the new."""
        if self.get_output_embeddings() is None:
            raise AttributeError(f"{type(self).__name__} has no output embeddings")
        embeddings.refuse_quantized(self.get_output_embeddings(), new_embeddings)
        self.lm_head = new_embeddings

    def tie_weights(self) -> None:
        """Make the output layer use the token embeddings if the configuration says so."""
        output = self.get_output_embeddings()
        if output is not None and self.config.tie_word_embeddings:
            for name, parameter in self.get_input_embeddings().named_parameters():
                setattr(output, name, parameter)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> embeddings.Table:
        """Make room for another number of tokens, in input and output; returns the input embeddings.

        Rows of new tokens are drawn around the mean of the old (`mean_resizing`) or as before training. Raises
        ValueError for a number that is not positive, TypeError if input or output is quantized.
        """
        table, output = self.get_input_embeddings(), self.get_output_embeddings()
        size = embeddings.target_size(table, new_num_tokens, pad_to_multiple_of)
        if size == table.num_embeddings:
            return table
        embeddings.refuse_quantized(table, output)
        self.set_input_embeddings(embeddings.resized_embedding(table, size, mean_resizing))
        if output is not None and not self.config.tie_word_embeddings:
            self.set_output_embeddings(embeddings.resized_linear(output, size, mean_resizing))
        elif output is not None:
            output.out_features = size
        self.config.vocab_size = size
        self.tie_weights()
        return self.get_input_embeddings()

    # -- parts and properties ------------------------------------------------------------------------------------

    @property
    def _base(self) -> Any:
        """The module that holds `shared`, `encoder` and, if there is one, `decoder`."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def base_model(self) -> nn.Module:
        """The network without its task head."""
        return self._base

    def get_encoder(self) -> T5Stack:
        """The encoder."""
        return self._base.encoder

    def get_decoder(self) -> T5Stack:
        """The decoder; AttributeError for a model without one."""
        return self._base.decoder

    @property
    def stacks(self) -> list[T5Stack]:
        """The encoder and, if there is one, the decoder."""
        return [module for module in self.modules() if isinstance(module, T5Stack)]

    @property
    def engine(self) -> str:
        """Who computes where it can: the native engine ("auto"), or always the network's own layers ("eager").

        To be set; ValueError for another name. Counts for models within the model, too.
        """
        return self._engine

    @engine.setter
    def engine(self, name: str) -> None:
        check_engine(name)
        for module in self.modules():
            if isinstance(module, T5PreTrainedModel):
                module._engine = name

    @property
    def cache_dtype(self) -> torch.dtype | None:
        """What the native engine keeps a decoder's keys and values as; None: float32 where weights are, else bfloat16.

        To be set: float32, bfloat16 or int8, or their names; ValueError for another.
        """
        return self._cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, dtype: torch.dtype | str | None) -> None:
        self._cache_dtype = check_cache_dtype(dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embeddings; some weights may have another (`wo` under float16, quantized layers)."""
        table = self.get_input_embeddings()
        return table.dtype if isinstance(table, QuantizedEmbedding) else table.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the embeddings are, which is where input goes."""
        return self.get_input_embeddings().weight.device

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Use another attention backend, "eager" or "sdpa"; ValueError for any other name."""
        self.config._attn_implementation = choose_backend(attn_implementation)
        for stack in self.stacks:
            stack.backend = attn_implementation

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many parameters there are; tied ones count once, quantized weights as the floats they stand for.

        Embeddings include those of relative positions.
        """
        sizes = {id(parameter): parameter.numel() for parameter in self.parameters()}
        for module in self.modules():
            if isinstance(module, QuantizedLayer):
                sizes |= {id(module.weight): module.full_shape.numel(), id(module.weight_scale): 0}
        for module in self.modules():
            if exclude_embeddings and isinstance(module, (nn.Embedding, QuantizedEmbedding)):
                sizes |= {id(parameter): 0 for parameter in module.parameters()}
        counted = (parameter for parameter in self.parameters() if parameter.requires_grad or not only_trainable)
        return sum(sizes[id(parameter)] for parameter in counted)

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Remove heads of the encoder's self-attention, given by layer; noted in the configuration.

        Other attentions are pruned one by one (`Attention.prune_heads`). Raises ValueError for a layer or head that is
        not there, or if a layer would keep none.
        """
        blocks = self.get_encoder().blocks
        for layer, heads in heads_to_prune.items():
            if not 0 <= int(layer) < len(blocks):
                raise ValueError(f"layers to prune must be from 0 to {len(blocks) - 1}, got {layer}")
            attention = blocks[int(layer)].self_attention
            attention.prune_heads(heads)
            self.config.pruned_heads = {**self.config.pruned_heads, int(layer): sorted(attention.pruned_heads)}

    # -- training ------------------------------------------------------------------------------------------------

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """In training, compute each block again in the backward pass instead of keeping what it computed.

        The keywords are accepted as the reference takes them; checkpoints here are always non-reentrant, which needs
        no input that requires gradients.
        """
        self._set_gradient_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """The opposite of `gradient_checkpointing_enable`."""
        self._set_gradient_checkpointing(False)

    def _set_gradient_checkpointing(self, enabled: bool) -> None:
        for stack in self.stacks:
            stack.gradient_checkpointing = enabled

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are computed again in the backward pass."""
        return any(stack.gradient_checkpointing for stack in self.stacks)

    def enable_input_require_grads(self) -> None:
        """Make the embeddings' output require gradients, for adapters on frozen weights."""

        def require_grad(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            output.requires_grad_(True)

        self._input_grad_hook = self.get_input_embeddings().register_forward_hook(require_grad)

    def disable_input_require_grads(self) -> None:
        """The opposite of `enable_input_require_grads`."""
        self._input_grad_hook.remove()

    def _shift_right(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Decoder input from labels: the start token in front, the last token dropped, -100 replaced by padding."""
        start, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        if start is None or pad is None:
            raise ValueError("config.decoder_start_token_id and config.pad_token_id must be set; T5 uses 0 for both")
        shifted = torch.full_like(input_ids, start)
        shifted[..., 1:] = input_ids[..., :-1]
        return shifted.masked_fill(shifted == -100, pad)
