#!/usr/bin/env bash
# EAGLE-2 with cost-aware trees, with prompt lookup and without, against plain decoding on the native engine: six
# sets, 128 new tokens, in turns, ids compared first. Run it again after an interruption: it resumes.
#
#   EYAS_EVAL_DATA=folder bash benchmarks/speed.sh
#
# LIMIT      questions of each set (20)
# OUT        a folder for each precision goes there (benchmarks/results)
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
eyas() { "${PYTHON:-python}" -m eyas "$@"; }
declare -A temperatures=([bfloat16]=0,1 [float32]=0 [int8]=0)
for dtype in bfloat16 int8 float32; do
  eyas calibrate --runtime native --dtype "$dtype" >/dev/null # the machine may have been busy the last time
  eyas bench run --methods eagle2:tree=auto eagle2:tree=auto,lookup=false \
    --questions mt_bench humaneval gsm8k alpaca sum qa --limit "${LIMIT:-20}" --temperature "${temperatures[$dtype]}" \
    --repeats 1 --no-cycles --max-new-tokens 128 --runtime native --dtype "$dtype" \
    --out "${OUT:-benchmarks/results}/speed-$dtype" "$@"
done
