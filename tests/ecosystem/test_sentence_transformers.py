"""sentence-transformers: quintet's encoder under its pooling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

import quintet

SENTENCES = ["The house is wonderful.", "A cat", "What is the capital of France?"]


def test_embeddings(shared: Path) -> None:
    """quintet's encoder in the place of the reference's, and quintet's own pipeline, give the same vectors."""
    folder = str(shared / "models" / "flan-t5-small-title")
    theirs, ours = Transformer(folder), Transformer(folder)
    expected = SentenceTransformer(modules=[theirs, Pooling(512, "mean")], device="cpu").encode(SENTENCES)
    ours.model = quintet.T5EncoderModel.from_pretrained(folder, dtype=next(theirs.parameters()).dtype)
    with torch.no_grad():
        ours.model.encoder.final_layer_norm.weight.mul_(2)  # to see that it is this one that computes
    found = SentenceTransformer(modules=[ours, Pooling(512, "mean")], device="cpu").encode(SENTENCES)
    np.testing.assert_allclose(found, 2 * expected, atol=1e-5)


def test_the_pipeline_pools_likewise(shared: Path) -> None:
    folder = str(shared / "models" / "flan-t5-small-title")
    module = Transformer(folder, model_args={"dtype": torch.float32})
    expected = SentenceTransformer(modules=[module, Pooling(512, "mean")], device="cpu").encode(SENTENCES)
    pipe = quintet.pipeline("feature-extraction", model=folder, dtype="float32", pooling="mean")
    np.testing.assert_allclose(np.array(pipe(SENTENCES)), expected, atol=1e-5)
