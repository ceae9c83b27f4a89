"""accelerate: a loop of one's own over a prepared model."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from ..model.reference import make_pair
from .batches import BATCH, HEAD


def test_a_prepared_model_trains_as_the_reference_and_is_saved(tmp_path: Path) -> None:
    losses = []
    for model in make_pair(HEAD, "v1.1", "sdpa"):
        accelerator = Accelerator(cpu=True)
        prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
        own = []
        for _ in range(5):
            loss = prepared(**BATCH).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            own.append(loss.item())
        losses.append(own)
        assert accelerator.unwrap_model(prepared) is model
        accelerator.save_model(prepared, tmp_path / type(model).__module__.split(".")[0])
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-4)
    assert losses[0][-1] < losses[0][0]
    ours, theirs = (load_file(tmp_path / library / "model.safetensors") for library in ("quintet", "transformers"))
    assert ours.keys() == theirs.keys()
