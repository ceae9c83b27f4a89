"""Which parameters are trained, and which decay."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters as an optimiser takes them: those that decay, and those that do not.

    Normalisation weights, biases and position biases do not: zero is no natural place for them.
    Raises ValueError if nothing is trainable.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("no parameter is left to train: all are frozen")
    still = [parameter for name, parameter in trainable if _stays(name)]
    groups = [
        {"params": [parameter for name, parameter in trainable if not _stays(name)], "weight_decay": weight_decay},
        {"params": still, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _stays(name: str) -> bool:
    return "norm" in name or "bias" in name


def freeze(model: nn.Module, names: Sequence[str]) -> int:
    """Stop the training of parts of a model; returns how many numbers in all it then leaves as they are.

    A name is that of a module or parameter, as in a checkpoint: "shared", "encoder", "encoder.block.0", with the
    wildcards * and [0-3]: "*.block.[0-3]", "decoder.block.*.layer.1". What shares its weights with a part (a tied
    lm_head) stays with it. Raises ValueError for a name that nothing has.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in names:
        chosen = [parameter for path, parameter in parameters.items() if _is_part(path, name)]
        if not chosen:
            children = ", ".join(child for child, _ in model.named_children())
            raise ValueError(f"nothing to freeze is called {name!r}; the model's parts are {children}, and theirs")
        for parameter in chosen:
            parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)


def _is_part(path: str, name: str) -> bool:
    """Whether the name is that of a parameter, or of a module it lies in."""
    parts, depth = path.split("."), name.count(".") + 1
    wanted = name.split(".")
    return len(parts) >= depth and all(map(fnmatch.fnmatchcase, parts, wanted))
