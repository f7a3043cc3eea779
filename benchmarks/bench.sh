#!/usr/bin/env bash
# Every method, its ablations and other programs side by side, then tables and figures: the run behind
# docs/benchmarks.md. Run it again after an interruption: it resumes. Hours on two cores.
#
#   EYAS_EVAL_DATA=folder bash benchmarks/bench.sh          # the full run, into benchmarks/results/bench
#   SMOKE=1 bash benchmarks/bench.sh                        # minutes on our own twelve questions; publishes nothing
#
# LIMIT      questions of each set (10)
# REPEATS    timed answers to each prompt (2)
# UNTIMED    1: no speeds for ablations and budgets, whose point is acceptance; saves two fifths of the time
# TOKENS     new tokens of an answer (128)
# PEERS      other programs (transformers transformers-pld transformers-assisted llama.cpp)
# ASSISTANT  directory of a small model for transformers' assisted generation
# OUT        the result folder
# More words are passed to `eyas bench run`, such as --threads 2 or --dtype float32.
set -euo pipefail
cd "$(dirname "$0")/.."
eyas() { "${PYTHON:-python}" -m eyas "$@"; }
report() { "${PYTHON:-python}" -m benchmarks.paper "$@"; } # the tables of eyas bench report, and those of the papers

if [ -n "${SMOKE:-}" ]; then
  eyas bench run --methods all auto ablations equal-budget --questions benchmarks/questions/*.jsonl \
    --temperature 0,1 --repeats 1 --max-new-tokens "${TOKENS:-16}" --out "${OUT:=build/bench-smoke}" "$@"
  report "$OUT" --html "$OUT/report.html" --figures "$OUT/figures"
  eyas bench check "$OUT" "$OUT" >/dev/null
  exit
fi

: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
read -r -a peers <<<"${PEERS-transformers transformers-pld transformers-assisted llama.cpp}"
out=${OUT:-benchmarks/results/bench}
repeats=${REPEATS:-2}
# Exit code 1 says that answers were lost or differ: the report lists them, so it is written all the same.
code=0
run() { # REPEATS METHODS AND OPTIONS...
  local found=0
  eyas bench run --repeats "$1" --methods "${@:2}" --questions mt_bench humaneval gsm8k alpaca sum qa \
    --limit "${LIMIT:-10}" --temperature 0,1 --max-new-tokens "${TOKENS:-128}" --out "$out" || found=$?
  [ "$found" -le 1 ] || exit "$found"
  [ "$found" -eq 0 ] || code=1
}
variants=(ablations equal-budget budgets)
outside=(${peers[0]:+--peers "${peers[@]}"} ${ASSISTANT:+--peer-assistant "$ASSISTANT"})
if [ -n "${UNTIMED:-}" ]; then
  run "$repeats" all auto "${outside[@]}" "$@"
  run 0 "${variants[@]}" "$@"
else
  run "$repeats" all auto "${variants[@]}" "${outside[@]}" "$@"
fi
report "$out" --markdown docs/benchmarks.md --html "$out/report.html" --figures docs/img
exit "$code"
