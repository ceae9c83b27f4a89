"""What the weight files of a checkpoint are called."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_NUMBER = r"-\d{5}-of-\d{5}"


@dataclass(frozen=True)
class Layout:
    """The file names of one format, in one variant (such as "fp16"), as the reference writes and looks for them."""

    pickled: bool = False
    variant: str | None = None

    @property
    def single(self) -> str:
        """The name of a file that holds every tensor, such as model.safetensors or pytorch_model.fp16.bin."""
        return self.pattern.format(suffix="")

    @property
    def pattern(self) -> str:
        """The name of a shard, with a place `{suffix}` for its number, such as -00001-of-00003."""
        stem, suffix = self._parts
        return f"{stem}{self._dotted_variant}{{suffix}}.{suffix}"

    @property
    def index(self) -> str:
        """The name of the JSON file that says which shard holds which tensor."""
        return f"{'.'.join(self._parts)}.index{self._dotted_variant}.json"

    @property
    def _parts(self) -> tuple[str, str]:
        return ("pytorch_model", "bin") if self.pickled else ("model", "safetensors")

    @property
    def _dotted_variant(self) -> str:
        return f".{self.variant}" if self.variant else ""


def layouts(variant: str | None = None, *, use_safetensors: bool | None = None) -> list[Layout]:
    """The layouts to look for, the preferred one first: safetensors before pickles, unless told to take one only."""
    allowed = [False, True] if use_safetensors is None else [not use_safetensors]
    return [Layout(pickled, variant) for pickled in allowed]


def layout_of(name: str) -> Layout | None:
    """The layout that a file of this name belongs to; None if it is no weight file or index."""
    for pickled in (False, True):
        stem, suffix = Layout(pickled)._parts
        weights = rf"{stem}(\.(?P<variant>.+?))?({_NUMBER})?\.{suffix}"
        index = rf"{stem}\.{suffix}\.index(\.(?P<variant>.+))?\.json"
        if match := re.fullmatch(weights, name) or re.fullmatch(index, name):
            return Layout(pickled, match["variant"])
    return None


def is_index(name: str) -> bool:
    """Whether `name` is that of a sharded checkpoint's index."""
    layout = layout_of(name)
    return layout is not None and name == layout.index


def is_shard(name: str) -> bool:
    """Whether `name` is that of one shard among several."""
    return layout_of(name) is not None and re.search(rf"{_NUMBER}\.", name) is not None


def superseded(new: Collection[str], held: Collection[str], former: Collection[str] = ()) -> list[str]:
    """Which of the files `held` by a folder are a former checkpoint's, once the files `new` have been put there.

    Those are the other files of the same layout, and safetensors beside newly saved pickles: they would be loaded in
    their stead; and those that the caller knows to be `former` ones. Indexes come first, so that removing the files in
    this order leaves no index without its shards.
    """
    written = {layout for name in new if (layout := layout_of(name))}
    replaced = written | {Layout(pickled=False, variant=layout.variant) for layout in written}
    stale = [name for name in held if name not in new and (name in former or layout_of(name) in replaced)]
    return sorted(stale, key=lambda name: (not is_index(name), name))
