"""A smaller network from a trained one: some blocks of its decoder, and one table for reading and writing.

python recipes/quintet-mini/shrink.py IN OUT --decoder-blocks 0 4 7 --tie

T5's stream of states is normalised wherever it is read, so it can be scaled as a whole: with the table's entries at a
standard deviation of 1 (FLAN-T5-small has 13.5), steps of one size suit it and the matrices.
"""

from __future__ import annotations

import argparse

import torch

from quintet import AutoTokenizer, T5Config, T5ForConditionalGeneration

INTO_THE_STREAM = ("SelfAttention.o.weight", "EncDecAttention.o.weight", "DenseReluDense.wo.weight")


def shrink(whole: T5ForConditionalGeneration, decoder_blocks: list[int], tie: bool) -> T5ForConditionalGeneration:
    """A new model with these blocks of the decoder; its first one brings the position bias, so 0 must be among them."""
    changes = {"num_decoder_layers": len(decoder_blocks), "tie_word_embeddings": tie}
    smaller = T5ForConditionalGeneration(T5Config.from_dict({**whole.config.to_dict(), **changes}))
    weights = {name: tensor.float() for name, tensor in whole.state_dict().items()}
    for name in smaller.state_dict():
        if name.startswith("decoder.block."):
            _, _, place, rest = name.split(".", 3)
            weights[name] = whole.state_dict()[f"decoder.block.{decoder_blocks[int(place)]}.{rest}"].float()
    if tie:
        scale = 1 / weights["shared.weight"].std()
        into_stream = [name for name in weights if name.endswith((*INTO_THE_STREAM, "shared.weight", "embed_tokens.weight"))]
        weights |= {name: weights[name] * scale for name in into_stream}
        weights["lm_head.weight"] = weights["shared.weight"]
    smaller.load_state_dict({name: weights[name] for name in smaller.state_dict()})
    return smaller.to(torch.bfloat16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--decoder-blocks", type=int, nargs="+", required=True)
    parser.add_argument("--tie", action="store_true", help="one table for embeddings and lm_head: that of embeddings")
    options = parser.parse_args()
    made = shrink(T5ForConditionalGeneration.from_pretrained(options.model), options.decoder_blocks, options.tie)
    made.save_pretrained(options.output)
    AutoTokenizer.from_pretrained(options.model).save_pretrained(options.output)
    print(f"{options.output}: {made.num_parameters():,} parameters")
