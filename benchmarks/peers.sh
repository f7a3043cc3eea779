#!/usr/bin/env bash
# eyas beside transformers and llama.cpp on the first questions of the six EAGLE sets, and one forward of T tokens.
# llama-cpp-python compiles for ten minutes: `pip install llama-cpp-python==0.3.36`.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
python=${PYTHON:-python}
"$python" benchmarks/peers.py --forwards --repeats 5 --out benchmarks/results/forwards.json
"$python" benchmarks/peers.py --questions mt_bench humaneval gsm8k alpaca sum qa --limit "${LIMIT:-3}" \
  --repeats 3 --out benchmarks/results/peers.json "$@"
