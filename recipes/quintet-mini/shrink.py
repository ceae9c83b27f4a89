"""A smaller network from a trained one: only some blocks of its decoder, which runs once a token.

python recipes/quintet-mini/shrink.py IN OUT --decoder-blocks 0 4 7
"""

from __future__ import annotations

import argparse

import torch

from quintet import AutoTokenizer, T5Config, T5ForConditionalGeneration


def shrink(whole: T5ForConditionalGeneration, decoder_blocks: list[int]) -> T5ForConditionalGeneration:
    """A new model with these blocks of the decoder; the first one brings the position bias, so 0 must be among them."""
    config = T5Config.from_dict({**whole.config.to_dict(), "num_decoder_layers": len(decoder_blocks)})
    smaller = T5ForConditionalGeneration(config).to(torch.bfloat16)
    weights = whole.state_dict()
    smaller.load_state_dict({name: weights[_source(name, decoder_blocks)] for name in smaller.state_dict()})
    return smaller


def _source(name: str, decoder_blocks: list[int]) -> str:
    """Which of the whole network's weights becomes the one of this name."""
    if not name.startswith("decoder.block."):
        return name
    prefix, place, rest = "decoder.block.", *name.removeprefix("decoder.block.").split(".", 1)
    return f"{prefix}{decoder_blocks[int(place)]}.{rest}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--decoder-blocks", type=int, nargs="+", required=True, metavar="N")
    options = parser.parse_args()
    made = shrink(T5ForConditionalGeneration.from_pretrained(options.model), options.decoder_blocks)
    made.save_pretrained(options.output)
    AutoTokenizer.from_pretrained(options.model).save_pretrained(options.output)
    print(f"{options.output}: {made.num_parameters():,} parameters")
