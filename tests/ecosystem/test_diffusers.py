"""diffusers: quintet's encoder as the text encoder of an image pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

import quintet

from ..model.reference import SIZES, make_pair


def drawers() -> dict[str, Any]:
    """A tiny random PixArt without its text encoder."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=SIZES["d_model"],
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=[8],
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D"],
    )
    return {"transformer": transformer.eval(), "vae": autoencoder.eval(), "scheduler": DDIMScheduler()}


def test_images_are_those_of_the_reference(shared: Path) -> None:
    pair, parts = make_pair("EncoderModel", "v1.1", "sdpa", vocab_size=32128), drawers()
    images = []
    for library, encoder in ((quintet, pair.ours), (transformers, pair.theirs)):
        tokenizer = library.T5TokenizerFast.from_pretrained(shared / "tokenizers" / "t5")
        pipe = PixArtAlphaPipeline(tokenizer=tokenizer, text_encoder=encoder, **parts)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        options = {"output_type": "np", "use_resolution_binning": False, "height": 8, "width": 8}
        images.append(pipe("a squirrel", num_inference_steps=2, generator=generator, **options).images)
    assert images[0].std() > 0
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)
