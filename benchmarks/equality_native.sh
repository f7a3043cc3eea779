#!/usr/bin/env bash
# Ids of eagle2 against plain decoding on the native engine, bit for bit (docs/laws.md, L1 and L8): every question of all
# seven sets, 128 new tokens, greedy and sampled with two seeds, sixteen sequences at a time. An hour or two on 2 cores; it
# goes on where an interruption left it.
#
# OUT        a folder for each precision goes there (build): answers.jsonl, summary.json
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
for dtype in bfloat16 int8; do
  "${PYTHON:-python}" -m eyas eval --questions mt_bench humaneval gsm8k alpaca sum qa spec_bench \
    --methods eagle2 --temperature 0,1 --seeds 0,1 --runtime native --dtype "$dtype" --batch 16 --max-new-tokens 128 \
    --out "${OUT:-build}/equality-$dtype" "$@"
done
