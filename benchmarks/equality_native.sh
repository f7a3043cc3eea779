#!/usr/bin/env bash
# Ids of eagle2 against plain decoding on the native engine, bit for bit (docs/laws.md, L1 and L8): every question of
# all seven sets, 128 new tokens, greedy and sampled with two seeds. Plain decoding answers in batches of sixteen, eagle2
# one at a time with cost-aware trees. About an hour on 2 cores; run it again after an interruption, and it resumes.
#
#   EYAS_EVAL_DATA=folder bash benchmarks/equality_native.sh
#   EYAS_EVAL_DATA=folder OUT=build/59 bash benchmarks/equality_native.sh --tree fixed --batch 16   # the paper's trees: hours
#
# OUT        a folder for each precision goes there (build): rows.jsonl, run.json, summary.json
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
run() {
  "${PYTHON:-python}" -m eyas eval --questions mt_bench humaneval gsm8k alpaca sum qa spec_bench --temperature 0,1 \
    --seeds 0,1 --runtime native --dtype "$dtype" --max-new-tokens 128 --out "${OUT:-build}/equality-$dtype" "$@"
}
for dtype in bfloat16 int8; do
  run --methods autoregressive --batch 16 "$@" >/dev/null
  run --methods eagle2 --tree auto "$@"
done
