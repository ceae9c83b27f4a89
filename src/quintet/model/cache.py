"""Keys and values kept between decoding steps.

A cache holds one layer object per decoder layer, made when the layer is first met, so a decoder may be deeper than the
encoder. Keys and values have the shape (batch, heads, length, d_kv).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from quintet.model.sharing import SourceSharing

if TYPE_CHECKING:
    from quintet.config import T5Config

KeyValue = tuple[torch.Tensor, torch.Tensor]
MINIMUM_ROOM = 32  # positions a growing buffer has room for at first


class CacheLayer:
    """Keys and values of one layer; None until the first `update`."""

    def __init__(self) -> None:
        self.keys: Any = None
        self.values: Any = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor | None = None) -> KeyValue:
        """Add new keys and values (at `positions`, if the layer is static) and return all of them."""
        raise NotImplementedError

    def get_seq_length(self) -> int | torch.Tensor:
        """How many positions are filled."""
        raise NotImplementedError

    def get_max_cache_shape(self) -> int:
        """How many positions there is room for; -1 if there is no limit."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the given rows of the batch, in that order; a row may come several times, as in beam search."""
        if self.keys is not None:
            self.keys = self.keys.index_select(0, indices.to(self.keys.device))
            self.values = self.values.index_select(0, indices.to(self.values.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch `repeats` times, the copies side by side."""
        if self.keys is not None:
            self.keys = self.keys.repeat_interleave(repeats, dim=0)
            self.values = self.values.repeat_interleave(repeats, dim=0)


class _Growing:
    """A tensor that grows along its length in a buffer with room to spare, instead of being copied at every step."""

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None
        self._view: torch.Tensor | None = None

    def append(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`old` and `new` behind each other; `old` is copied only if it is not what the last call returned."""
        start, end = old.shape[2], old.shape[2] + new.shape[2]
        if self._buffer is None or old is not self._view or end > self._buffer.shape[2]:
            room = max(end, 2 * start, MINIMUM_ROOM)
            self._buffer = old.new_empty(*old.shape[:2], room, old.shape[3])
            self._buffer[:, :, :start] = old
        self._buffer[:, :, start:end] = new
        self._view = self._buffer[:, :, :end]
        return self._view

    def select(self, old: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The given rows of `old`; room and all if it is what the last call returned, so that it goes on growing."""
        if self._buffer is None or old is not self._view:
            return old.index_select(0, rows)
        self._buffer = self._buffer.index_select(0, rows)
        self._view = self._buffer[:, :, : old.shape[2]]
        return self._view

    def crop(self, old: torch.Tensor, length: int) -> torch.Tensor:
        """The first positions of `old`, which go on growing from there."""
        cropped = old[:, :, :length]
        if old is self._view:
            self._view = cropped
        return cropped


class DynamicLayer(CacheLayer):
    """A layer that grows with every step."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = (_Growing(), _Growing())

    def update(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor | None = None) -> KeyValue:
        """Append keys and values; `positions` is not needed."""
        if self.keys is None:
            self.keys, self.values = keys, values
        elif torch.is_grad_enabled() or torch.compiler.is_compiling():  # writing in place is for neither
            self.keys = torch.cat([self.keys, keys], dim=2)
            self.values = torch.cat([self.values, values], dim=2)
        else:
            self.keys = self._grown[0].append(self.keys, keys)
            self.values = self._grown[1].append(self.values, values)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """How many positions are filled."""
        return 0 if self.keys is None else self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        """-1: there is no limit."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` positions; a negative number drops that many from the end."""
        if max_length < 0:
            max_length = max(self.get_seq_length() + max_length, 0)
        if self.keys is not None:
            self.keys = self._grown[0].crop(self.keys, max_length)
            self.values = self._grown[1].crop(self.values, max_length)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the given rows of the batch, in that order; a row may come several times, as in beam search."""
        if self.keys is not None:
            self.keys = self._grown[0].select(self.keys, indices.to(self.keys.device))
            self.values = self._grown[1].select(self.values, indices.to(self.values.device))


class StaticLayer(CacheLayer):
    """A layer of fixed size, so that shapes and addresses stay the same from step to step (compiled steps need that).

    The buffers are allocated at the first `update`, which tells batch size, dtype and device.
    """

    def __init__(self, max_cache_len: int) -> None:
        super().__init__()
        self.max_cache_len = max_cache_len
        self._length: int | torch.Tensor = 0

    def update(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor | None = None) -> KeyValue:
        """Write keys and values at `positions` (from 0 on if None); returns the whole buffers, unfilled part included.

        Raises ValueError if more positions come in than there is room for.
        """
        if keys.shape[2] > self.max_cache_len:
            raise ValueError(f"{keys.shape[2]} positions do not fit into a static cache of {self.max_cache_len}")
        if self.keys is None:
            batch, heads, _, d_kv = keys.shape
            self.keys = keys.new_zeros(batch, heads, self.max_cache_len, d_kv)
            self.values = values.new_zeros(batch, heads, self.max_cache_len, d_kv)
        if positions is None:
            positions = torch.arange(keys.shape[2], device=keys.device)
        self.keys.index_copy_(2, positions, keys)
        self.values.index_copy_(2, positions, values)
        self._length = positions[-1] + 1  # a tensor: reading it as a number here would stall a GPU at every step
        return self.keys, self.values

    def get_seq_length(self) -> int | torch.Tensor:
        """How many positions are filled: a tensor with one number once there is something."""
        return self._length

    def get_max_cache_shape(self) -> int:
        """How many positions there is room for."""
        return self.max_cache_len

    def reset(self) -> None:
        """Forget everything, keeping the buffers."""
        self._length = 0
        if self.keys is not None:
            self.keys.zero_()
            self.values.zero_()


class Cache:
    """The layers of one stack's cache, by index."""

    def __init__(self) -> None:
        self.layers: list[CacheLayer] = []

    def _new_layer(self) -> CacheLayer:
        raise NotImplementedError

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        cache_kwargs: dict[str, Any] | None = None,
    ) -> KeyValue:
        """Add keys and values of a layer, at `cache_kwargs["cache_position"]` if static; returns all there are."""
        while len(self.layers) <= layer_idx:
            self.layers.append(self._new_layer())
        return self.layers[layer_idx].update(key_states, value_states, (cache_kwargs or {}).get("cache_position"))

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """How many positions a layer has filled."""
        return self.layers[layer_idx].get_seq_length() if layer_idx < len(self.layers) else 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """How many positions there is room for; -1 if there is no limit."""
        raise NotImplementedError

    @property
    def is_compileable(self) -> bool:
        """Whether shapes stay the same from step to step."""
        return self.get_max_cache_shape() >= 0

    def reset(self) -> None:
        """Forget everything."""
        for layer in self.layers:
            layer.reset()

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` positions; a negative number drops that many from the end."""
        raise NotImplementedError

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Give row i the content of row beam_idx[i]."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the given rows of the batch, in that order."""
        for layer in self.layers:
            layer.batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch `repeats` times, the copies side by side."""
        for layer in self.layers:
            layer.batch_repeat_interleave(repeats)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer_idx: int) -> tuple[torch.Tensor, ...]:
        if layer_idx >= len(self.layers):
            raise KeyError(f"the cache has {len(self.layers)} layers; there is no layer {layer_idx}")
        return self.layers[layer_idx].keys, self.layers[layer_idx].values

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return (self[index] for index in range(len(self)))

    def to_legacy_cache(self) -> tuple[tuple[torch.Tensor, ...], ...]:
        """A tuple of (keys, values) per layer, with those of the source behind if there are any."""
        return tuple(self)


class DynamicCache(Cache):
    """A cache that grows with every step: the default.

    May be filled from (keys, values) per layer. `config` is accepted because the reference takes it; layers are made
    as they are met, so nothing is read from it.
    """

    def __init__(self, ddp_cache_data: Iterable[KeyValue] | None = None, config: T5Config | None = None) -> None:
        super().__init__()
        for index, (keys, values) in enumerate(ddp_cache_data or ()):
            self.update(keys, values, index)

    def _new_layer(self) -> CacheLayer:
        return DynamicLayer()

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: there is no limit."""
        return -1

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` positions; a negative number drops that many from the end."""
        for layer in self.layers:
            layer.crop(max_length)  # type: ignore[attr-defined]

    @classmethod
    def from_legacy_cache(cls, past_key_values: Iterable[KeyValue] | None) -> DynamicCache:
        """The opposite of `to_legacy_cache`."""
        return cls(past_key_values)


class StaticCache(Cache):
    """A cache with room for `max_cache_len` positions, allocated once, for steps of constant shape."""

    def __init__(self, config: T5Config | None = None, max_cache_len: int | None = None, **_: Any) -> None:
        """`config` and further keywords are those the reference takes; nothing is read from them.

        Raises ValueError without a positive `max_cache_len`.
        """
        super().__init__()
        if not isinstance(max_cache_len, int) or max_cache_len < 1:
            raise ValueError(f"max_cache_len must be a positive integer, got {max_cache_len!r}")
        self.max_cache_len = max_cache_len

    def _new_layer(self) -> CacheLayer:
        return StaticLayer(self.max_cache_len)

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """How many positions there is room for."""
        return self.max_cache_len

    def crop(self, max_length: int) -> None:
        """Refused, as in the reference."""
        raise ValueError("crop: a static cache cannot be cropped; use a DynamicCache, or reset it")


class EncoderDecoderCache(Cache):
    """A decoder's two caches: over the target, which grows, and over the source, which is filled once.

    `is_updated[layer]` says whether a layer's source keys and values are there. `sharing` says which source each row
    reads where several rows read the same one; None if every row has its own.
    """

    sharing: SourceSharing | None = None

    def __init__(self, *caches: Any) -> None:
        """Two caches (self-attention, cross-attention), or one iterable of (keys, values[, cross keys, values])."""
        super().__init__()
        if len(caches) == 1:
            caches = _split_legacy(caches[0])
        if len(caches) != 2:
            raise ValueError(f"EncoderDecoderCache takes a self- and a cross-attention cache, got {len(caches)}")
        if not all(isinstance(cache, Cache) for cache in caches):
            raise TypeError(f"both arguments must be caches, got {', '.join(type(cache).__name__ for cache in caches)}")
        self.self_attention_cache: Cache = caches[0]
        self.cross_attention_cache: Cache = caches[1]
        self.is_updated = {
            layer: bool(self.cross_attention_cache.get_seq_length(layer) > 0)
            for layer in range(len(self.cross_attention_cache))
        }

    @classmethod
    def from_legacy_cache(cls, past_key_values: Iterable[tuple[torch.Tensor, ...]] | None) -> EncoderDecoderCache:
        """From (keys, values[, cross keys, cross values]) per layer."""
        return cls(past_key_values or ())

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """How many target positions are filled."""
        return self.self_attention_cache.get_seq_length(layer_idx)

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """How many target positions there is room for; -1 if there is no limit."""
        return self.self_attention_cache.get_max_cache_shape()

    @property
    def batch_size(self) -> int | None:
        """How many rows there are; None as long as there is nothing."""
        caches = (self.self_attention_cache, self.cross_attention_cache)
        keys = (cache.layers[0].keys for cache in caches if cache.layers)
        return next((key.shape[0] for key in keys if key is not None), None)

    @property
    def is_compileable(self) -> bool:
        """Whether shapes stay the same from step to step."""
        return self.self_attention_cache.is_compileable

    def reset(self) -> None:
        """Forget everything, the source too."""
        self.self_attention_cache.reset()
        self.cross_attention_cache.reset()
        self.is_updated = dict.fromkeys(self.is_updated, False)

    def crop(self, maximum_length: int) -> None:
        """Keep the first positions of the target; a negative number drops that many from the end."""
        self.self_attention_cache.crop(maximum_length)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Give row i the content of row beam_idx[i], in both caches."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the given rows of the batch, in that order, in both caches."""
        self.self_attention_cache.batch_select_indices(indices)
        self.cross_attention_cache.batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch `repeats` times, in both caches."""
        self.self_attention_cache.batch_repeat_interleave(repeats)
        self.cross_attention_cache.batch_repeat_interleave(repeats)

    def __len__(self) -> int:
        return len(self.self_attention_cache)

    def __getitem__(self, layer_idx: int) -> tuple[torch.Tensor, ...]:
        own = self.self_attention_cache[layer_idx]
        return own + self.cross_attention_cache[layer_idx] if layer_idx < len(self.cross_attention_cache) else own

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return (self[index] for index in range(len(self)))


def _split_legacy(layers: Iterable[tuple[torch.Tensor, ...]]) -> tuple[DynamicCache, DynamicCache]:
    layers = list(layers)
    own = DynamicCache((layer[0], layer[1]) for layer in layers)
    cross = DynamicCache((layer[2], layer[3]) for layer in layers if len(layer) > 2)
    return own, cross
