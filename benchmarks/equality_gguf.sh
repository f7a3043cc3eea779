#!/usr/bin/env bash
# Ids of methods against plain decoding on GGUF files at their own bits (docs/laws.md, L1 and L8): 17 questions of each of
# six sets, 64 new tokens, temperatures 0, 0.7 and 1. Prompt lookup, lookahead, a head of random weights, and for
# all files but the first the first one as the draft model (`sps`). Hours on two cores; run it again after an
# interruption, and it resumes.
#
#   EYAS_EVAL_DATA=folder bash benchmarks/equality_gguf.sh small.gguf large.gguf
#
# OUT        a folder for each file goes there (build/equality-gguf)
# LIMIT      questions of each set (17)
# EYAS_ISA   an instruction set; a folder for each
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}" "${1:?name GGUF files}"
draft=$1
for file in "$@"; do
  out=${OUT:-build/equality-gguf}/$(basename "$file" .gguf)${EYAS_ISA:+-$EYAS_ISA}
  run() {
    "${PYTHON:-python}" -m eyas eval --model "$file" --questions mt_bench humaneval gsm8k alpaca sum qa \
      --limit "${LIMIT:-17}" --temperature 0,0.7,1 --max-new-tokens 64 --runtime native --out "$out" "$@"
  }
  head=$out/random-head
  [ -e "$head/config.json" ] || "${PYTHON:-python}" benchmarks/random_head.py "$file" "$head"
  run --methods autoregressive --batch 16 >/dev/null
  run --methods pld >/dev/null
  run --methods lookahead >/dev/null
  [ "$file" = "$draft" ] || run --methods sps --head "$draft" >/dev/null
  run --methods eagle2 --tree fixed --draft-tokens 8 --depth 3 --tree-top-k 4 --head "$head"
done
