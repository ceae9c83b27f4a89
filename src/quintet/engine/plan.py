"""A network as the native engine sees it: pointers to its tensors, where they are."""

from __future__ import annotations

import ctypes
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch

from quintet.config import T5Config
from quintet.engine.library import TYPES, Attention, FeedForward, Layer, Matrix, Model, Stack

FLOATS = (torch.float32, torch.bfloat16)
CACHE_DTYPES = (torch.float32, torch.bfloat16, torch.int8)
ACTIVATIONS = {"relu": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu": 2, "silu": 3, "swish": 3}
LARGEST_D_KV = 256


class Unsupported(Exception):
    """The engine cannot run this network; the message says why."""


class Plan:
    """The structures that describe a network to the library.

    Holds its tensors, reads them in place and copies none: a weight that changes in place is seen at once. Built anew
    for each call, in well under a millisecond for each layer.
    """

    def __init__(
        self,
        config: T5Config,
        tensors: Mapping[str, torch.Tensor],
        biases: Mapping[str, Sequence[torch.Tensor]],
        cache_dtype: torch.dtype | None = None,
    ) -> None:
        """`tensors` under their names in checkpoints; `biases` of "encoder" and "decoder": one (heads, 2 * reach + 1)
        in float32 for each layer. A stack whose norm is not among the tensors is left out. `cache_dtype`, one of
        `CACHE_DTYPES`, is what the decoder's keys and values are kept as; None: float32 where weights are, else
        bfloat16.

        Raises Unsupported for what the engine does not compute.
        """
        self.config = config
        self._tensors = tensors
        self._held: list[Any] = []
        if config.dense_act_fn not in ACTIVATIONS:
            raise Unsupported(f"the activation {config.dense_act_fn}")
        if config.d_kv > LARGEST_D_KV:
            raise Unsupported(f"d_kv of {config.d_kv}: at most {LARGEST_D_KV}")
        self.model = Model(
            head_scale=config.d_model**-0.5 if config.tie_word_embeddings else 1.0,
            epsilon=config.layer_norm_epsilon,
            d_model=config.d_model,
            heads=config.num_heads,
            d_kv=config.d_kv,
        )
        for name, layers in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
            if f"{name}.final_layer_norm.weight" in tensors:
                setattr(self.model, name, self._stack(name, layers, biases[name]))
        if "lm_head.weight" in tensors:
            self.model.head = self._matrix("lm_head")
        own = self._matrix("encoder.block.0.layer.0.SelfAttention.q")
        self.model.narrow = own.type != TYPES[torch.float32]
        self.model.cache_type = TYPES[cache_dtype or (torch.bfloat16 if self.model.narrow else torch.float32)]

    def _stack(self, name: str, layers: int, biases: Sequence[torch.Tensor]) -> Stack:
        is_decoder = name == "decoder"
        found = (Layer * layers)()
        self._held.append(found)
        for number, layer in enumerate(found):
            block = f"{name}.block.{number}.layer"
            layer.own = self._attention(f"{block}.0", "SelfAttention", biases[number])
            if is_decoder:
                layer.cross = self._attention(f"{block}.1", "EncDecAttention", None)
            layer.feed_forward = self._feed_forward(f"{block}.{2 if is_decoder else 1}")
        return Stack(
            embedding=self._matrix(f"{name}.embed_tokens", (*FLOATS, torch.int8)),
            norm=self._norm(f"{name}.final_layer_norm"),
            layers=ctypes.cast(found, ctypes.POINTER(Layer)),
            count=layers,
        )

    def _attention(self, layer: str, name: str, bias: torch.Tensor | None) -> Attention:
        matrices = [self._matrix(f"{layer}.{name}.{part}") for part in ("q", "k", "v", "o")]
        self._check_same(matrices[:3], f"{layer}.{name}")
        inner = self.config.num_heads * self.config.d_kv
        if matrices[0].outputs != inner or matrices[3].inputs != inner:
            raise Unsupported(f"{layer}.{name} with heads removed")
        found = Attention(self._norm(f"{layer}.layer_norm"), *matrices)
        if bias is not None:
            bias = bias.contiguous()
            self._held.append(bias)
            found.bias, found.reach = bias.data_ptr(), bias.shape[1] // 2
        return found

    def _feed_forward(self, layer: str) -> FeedForward:
        inner = f"{layer}.DenseReluDense"
        gated = self.config.is_gated_act
        gate = self._matrix(f"{inner}.wi_0") if gated else Matrix()
        up = self._matrix(f"{inner}.wi_1" if gated else f"{inner}.wi")
        if gated:
            self._check_same([gate, up], inner)
        return FeedForward(
            norm=self._norm(f"{layer}.layer_norm"),
            gate=gate,
            up=up,
            down=self._matrix(f"{inner}.wo"),
            activation=ACTIVATIONS[self.config.dense_act_fn],
        )

    def _check_same(self, matrices: Sequence[Matrix], name: str) -> None:
        if len({(matrix.type, matrix.group) for matrix in matrices}) > 1:
            raise Unsupported(f"matrices of different types in {name}")

    def _norm(self, name: str) -> Matrix:
        return self._matrix(name, FLOATS)

    def _matrix(self, name: str, types: Container[torch.dtype] = TYPES) -> Matrix:
        """The tensor `name`.weight, with `name`.weight_scale if it is of integers; a vector is a matrix of one row."""
        tensor = self._tensors.get(f"{name}.weight")
        if tensor is None:
            raise Unsupported(f"{name}, which has no weight")
        self._check_plain(tensor, f"{name}, whose weight")
        scale = self._tensors.get(f"{name}.weight_scale")
        if tensor.dtype not in types or tensor.is_floating_point() == (scale is not None):
            raise Unsupported(f"{name} of {tensor.dtype}")
        outputs, inputs = (1, tensor.shape[0]) if tensor.dim() == 1 else tensor.shape
        found = Matrix(tensor.data_ptr(), None, outputs, inputs, TYPES[tensor.dtype], 0)
        if scale is not None:
            self._add_scale(found, scale, name)
        return found

    @staticmethod
    def _check_plain(tensor: torch.Tensor, name: str) -> None:
        if tensor.device.type != "cpu" or not tensor.is_contiguous() or type(tensor.data) is not torch.Tensor:
            raise Unsupported(f"{name} is no plain tensor on the CPU")

    def _add_scale(self, matrix: Matrix, scale: torch.Tensor, name: str) -> None:
        if matrix.type == TYPES[torch.uint8]:
            matrix.inputs *= 2
            if matrix.inputs % 8:
                raise Unsupported(f"{name}: int4 of {matrix.inputs} inputs, which is no multiple of 8")
        if scale.shape[1] > 1:
            matrix.group = matrix.inputs // scale.shape[1]
        if matrix.type == TYPES[torch.int8] and matrix.group:
            raise Unsupported(f"{name}: int8 in groups")
        self._check_plain(scale, f"{name}, whose scale")
        if scale.dtype not in FLOATS:
            raise Unsupported(f"{name} with scales of {scale.dtype}")
        matrix.scale, matrix.scale_type = scale.data_ptr(), TYPES[scale.dtype]
