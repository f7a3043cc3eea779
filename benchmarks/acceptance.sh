#!/usr/bin/env bash
# Acceptance length of the shipped head on the six EAGLE sets: first turns of 10 questions each, 128 new tokens,
# native in bfloat16. Each line writes benchmarks/results/<name>/ and goes on from what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
run() {
  name=$1
  shift
  "${PYTHON:-python}" -m eyas eval --questions mt_bench humaneval gsm8k alpaca sum qa --limit "${LIMIT:-10}" \
    --methods eagle2 --no-equal-check --runtime native --dtype bfloat16 --tree fixed --max-new-tokens 128 \
    --out "benchmarks/results/$name" "$@"
}
run acceptance-greedy-59 --temperature 0
run acceptance-greedy-15 --temperature 0 --draft-tokens 15
run acceptance-greedy-7 --temperature 0 --draft-tokens 7 --depth 3
run acceptance-sampled-top-k --temperature 1 --seeds 0 --draft-sampling top-k
run acceptance-sampled-coupled --temperature 1 --seeds 0 --draft-sampling coupled
