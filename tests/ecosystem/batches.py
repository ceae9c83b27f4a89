"""What the libraries train on."""

from __future__ import annotations

from ..model.reference import make_batch, make_labels

HEAD = "ForConditionalGeneration"
SOURCE = {name: make_batch(HEAD)[name] for name in ("input_ids", "attention_mask")}
BATCH = {**SOURCE, **make_labels(HEAD, make_batch(HEAD))}
