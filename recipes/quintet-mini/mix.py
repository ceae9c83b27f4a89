"""A model between two: each weight `share` of the first's and the rest of the second's (Wortsman et al. 2022, WiSE-FT).

python recipes/quintet-mini/mix.py FIRST SECOND OUT --share 0.9
"""

from __future__ import annotations

import argparse

from quintet import AutoModelForSeq2SeqLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("first", metavar="FIRST")
parser.add_argument("second", metavar="SECOND")
parser.add_argument("output", metavar="OUT")
parser.add_argument("--share", type=float, required=True)
options = parser.parse_args()

model, other = (AutoModelForSeq2SeqLM.from_pretrained(name) for name in (options.first, options.second))
rest = other.state_dict()
mixed = {name: options.share * weight + (1 - options.share) * rest[name] for name, weight in model.state_dict().items()}
model.load_state_dict(mixed)
model.save_pretrained(options.output)
AutoTokenizer.from_pretrained(options.first).save_pretrained(options.output)
