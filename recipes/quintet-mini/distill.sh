#!/usr/bin/env bash
# The teacher's translations of all English sentences into both languages; arguments go to `quintet run`.
set -euo pipefail
cd runs/quintet-mini
zcat ../../../shared/data/tatoeba/en-*.train.tsv.gz | cut -f1 | LC_ALL=C sort -u |
  awk '{ print length "\t" "translate English to French: " $0; print length "\t" "translate English to German: " $0 }' |
  LC_ALL=C sort -n -s -k1,1 | cut -f2- > sources.txt  # by length: batches have little padding
quintet run -m teacher --input sources.txt --output answers.txt --overwrite --num-beams 4 --max-new-tokens 100 "$@"
paste sources.txt answers.txt > distilled.tsv
