#!/usr/bin/env bash
# What Medusa, Hydra and speculative sampling draft with, each trained for the same time on the same answers. Every step
# goes on where an interruption left it: run the same command again. docs/training.md says what the options do.
#
#   WORK=run ANSWERS="a.jsonl b.jsonl.gz" MINUTES=60 bash benchmarks/train_others.sh
#
# WORK       folder of everything that is made: features, states of the runs, networks
# ANSWERS    answer files of the target, separated by spaces (`eyas train distil`)
# MINUTES    of training steps for each of the three; measuring acceptance comes on top
# KINDS      which of them; without it "medusa hydra draft-lm"
# CACHE      folder of the features that another run has kept already; without it WORK/features
# CACHE_GB   room for features in bfloat16: 1.2 kB a token for the default target
# DTYPE      of the products; float32 is faster where the processor has no bfloat16
# OUT        where the networks go, a folder for each; without it into the user's cache
set -euo pipefail
cd "$(dirname "$0")/.."
: "${WORK:?set it to the folder of the run}" "${ANSWERS:?set it to the answer files}" "${MINUTES:?set it to a number}"
eyas() { "${PYTHON:-python}" -m eyas "$@"; }
mkdir -p "$WORK"
read -r -a answers <<<"$ANSWERS"
read -r -a kinds <<<"${KINDS:-medusa hydra draft-lm}"

for kind in "${kinds[@]}"; do
  eyas train "$kind" --answers "${answers[@]}" --work "$WORK/$kind" ${OUT:+--out "$OUT/$kind"} --minutes "$MINUTES" \
    --dtype "${DTYPE:-bfloat16}" --draft-vocab 8192 --max-length 1280 --batch-rows "${BATCH_ROWS:-2400}" \
    --features "${CACHE:-$WORK/features}" --feature-gb "${CACHE_GB:-16}"
done
