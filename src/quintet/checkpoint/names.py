"""What the weight files of a checkpoint are called."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The file names of one format, in one variant (such as "fp16"), as the reference writes and looks for them."""

    stem: str
    suffix: str
    variant: str | None = None

    @property
    def _stem(self) -> str:
        return f"{self.stem}.{self.variant}" if self.variant else self.stem

    @property
    def single(self) -> str:
        """The name of the file that holds every tensor."""
        return f"{self._stem}.{self.suffix}"

    @property
    def index(self) -> str:
        """The name of the JSON file that says which shard holds which tensor."""
        variant = f".{self.variant}" if self.variant else ""
        return f"{self.stem}.{self.suffix}.index{variant}.json"

    @property
    def pattern(self) -> str:
        """The name of a shard, with a place for its number."""
        return f"{self._stem}{{suffix}}.{self.suffix}"

    def is_shard(self, name: str) -> bool:
        """Whether `name` is a shard's, like model-00001-of-00003.safetensors."""
        return re.fullmatch(rf"{re.escape(self._stem)}-\d{{5}}-of-\d{{5}}\.{self.suffix}", name) is not None

    def owns(self, name: str) -> bool:
        """Whether a file of this name belongs to a checkpoint in this layout."""
        return name in (self.single, self.index) or self.is_shard(name)


def layouts(variant: str | None = None, *, use_safetensors: bool | None = None) -> list[Layout]:
    """The layouts to look for, the preferred one first: safetensors before pickles, unless told to take one only."""
    safe = Layout("model", "safetensors", variant)
    pickled = Layout("pytorch_model", "bin", variant)
    if use_safetensors is None:
        return [safe, pickled]
    return [safe] if use_safetensors else [pickled]
