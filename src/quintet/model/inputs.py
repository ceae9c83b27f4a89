"""What `generate` and `score` read: sources, in any of their forms, and what belongs to them row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from quintet.model import checks
from quintet.outputs import BaseModelOutput, ModelOutput

PER_ROW = ("input_ids", "inputs_embeds", "attention_mask", "decoder_input_ids", "decoder_attention_mask")


@dataclass
class Inputs:
    """Sources and the beginnings of their targets, under the names of `forward`'s arguments."""

    input_ids: torch.Tensor | None = None
    inputs_embeds: torch.Tensor | None = None
    encoder_outputs: BaseModelOutput | None = None
    attention_mask: torch.Tensor | None = None
    head_mask: torch.Tensor | None = None
    decoder_input_ids: torch.Tensor | None = None
    decoder_attention_mask: torch.Tensor | None = None
    decoder_head_mask: torch.Tensor | None = None
    cross_attn_head_mask: torch.Tensor | None = None

    was_list: bool = False
    """Whether input_ids were given as a list of rows of any lengths."""

    @classmethod
    def names(cls) -> set[str]:
        """The keywords that are inputs."""
        return {field.name for field in fields(cls)} - {"was_list"}

    @classmethod
    def of(cls, keywords: dict[str, Any], inputs: Any, pad: int | None, device: torch.device) -> Inputs:
        """From the keywords of a call; `inputs` is another name for input_ids.

        input_ids may be a list of rows of different lengths, which are padded on the right and put on the device.
        Raises ValueError for sources given twice or not at all.
        """
        given = {name: keywords.get(name) for name in cls.names()}
        if inputs is not None and given["input_ids"] is not None:
            raise ValueError("give inputs or input_ids, not both")
        given["input_ids"] = given["input_ids"] if inputs is None else inputs
        if given["encoder_outputs"] is not None:
            given["encoder_outputs"] = as_encoder_output(given["encoder_outputs"])
        else:
            checks.check_one_given(given["input_ids"], given["inputs_embeds"], ("input_ids", "inputs_embeds"))
        was_list = isinstance(given["input_ids"], (list, tuple))
        if was_list:
            ids, mask = padded(given["input_ids"], pad or 0)
            given["input_ids"], given["attention_mask"] = ids.to(device), mask.to(device)
        read = cls(**given, was_list=was_list)
        read._check(pad)
        return read

    def _check(self, pad: int | None) -> None:
        if self.input_ids is not None:
            checks.check_tensor(self.input_ids, "input_ids")
            if self.input_ids.dim() != 2 or self.input_ids.shape[1] == 0:
                shape = tuple(self.input_ids.shape)
                raise ValueError(f"input_ids must have the shape (batch, length) with at least one token, got {shape}")
        if self.attention_mask is None:
            self.attention_mask = _mask_of_padding(self.input_ids, pad)
        elif self.attention_mask.dim() != 2 or self.attention_mask.shape[0] != self.rows:
            shape = tuple(self.attention_mask.shape)
            raise ValueError(f"attention_mask must have the shape (batch, length) of the source, got {shape}")

    @property
    def _main(self) -> torch.Tensor:
        if self.encoder_outputs is not None:
            return self.encoder_outputs[0]
        main = self.input_ids if self.input_ids is not None else self.inputs_embeds
        assert main is not None
        return main

    @property
    def rows(self) -> int:
        """How many sources there are."""
        return self._main.shape[0]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._main.device

    @property
    def lengths(self) -> list[int]:
        """How many tokens each source has, without padding."""
        if self.attention_mask is None:
            return [self._main.shape[1]] * self.rows
        return self.attention_mask.sum(dim=1).tolist()

    def take(self, rows: Sequence[int], trim: bool = True) -> Inputs:
        """Some of the rows; with `trim`, without columns that are padding in all of them."""
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        values = {name: getattr(self, name) for name in PER_ROW}
        taken = {name: value.index_select(0, index) for name, value in values.items() if value is not None}
        if self.encoder_outputs is not None:
            taken["encoder_outputs"] = BaseModelOutput(self.encoder_outputs[0].index_select(0, index))
        elif self.attention_mask is not None and trim:
            used = taken["attention_mask"].any(dim=0).nonzero().squeeze(1)
            for name in ("input_ids", "inputs_embeds", "attention_mask"):
                if name in taken and used.numel() > 0:
                    taken[name] = taken[name][:, int(used[0]) : int(used[-1]) + 1]
        return replace(self, **taken)


def padded(rows: Any, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids, lists or tensors of any lengths, as ids and mask (rows, longest); ValueError for an empty row."""
    ids = [row.flatten().tolist() if isinstance(row, torch.Tensor) else list(row) for row in rows]
    for index, row in enumerate(ids):
        if not row or not all(isinstance(token, int) for token in row):
            raise ValueError(f"row {index} of the input must be a non-empty list of token ids, got {row!r:.80}")
    longest = max((len(row) for row in ids), default=1)
    padding = [longest - len(row) for row in ids]
    tokens = [row + [pad] * missing for row, missing in zip(ids, padding, strict=True)]
    mask = [[1] * len(row) + [0] * missing for row, missing in zip(ids, padding, strict=True)]
    return torch.tensor(tokens).reshape(len(ids), longest), torch.tensor(mask).reshape(len(ids), longest)


def as_encoder_output(outputs: Any) -> BaseModelOutput:
    """What a user passes as encoder_outputs: an output, or a tuple whose first element is the states.

    Raises TypeError if there are no states in it.
    """
    values = outputs.to_tuple() if isinstance(outputs, ModelOutput) else tuple(outputs)
    checks.check_tensor(values[0] if values else None, "encoder_outputs")
    return outputs if isinstance(outputs, BaseModelOutput) else BaseModelOutput(*values[:3])


def _mask_of_padding(ids: torch.Tensor | None, pad: int | None) -> torch.Tensor | None:
    """Without a mask, padding is what equals the padding token, as in the reference."""
    if ids is None or pad is None or not (ids == pad).any():
        return None
    return (ids != pad).long()
