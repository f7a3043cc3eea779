#!/usr/bin/env bash
# Ids of eagle2 against plain decoding (docs/laws.md, L1): first turns of 10 questions of all seven sets, 64 new
# tokens, torch in float32, greedy and sampled with two seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
"${PYTHON:-python}" -m eyas eval --questions mt_bench humaneval gsm8k alpaca sum qa spec_bench --limit "${LIMIT:-10}" \
  --methods eagle2 --temperature 0,1 --seeds 0,1 --runtime torch --dtype float32 --max-new-tokens 64 \
  --out benchmarks/results/equality-float32 "$@"
