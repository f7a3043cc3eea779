#!/usr/bin/env bash
# The head that ships, from prompts to heads/<fingerprint>/. Every step goes on where an interruption left it: run the
# same command again. docs/training.md says what the options do, docs/log.md why they are these.
#
#   WORK=run ANSWERS="a.jsonl b.jsonl.gz" bash benchmarks/train_head.sh      # answers that are there already
#   WORK=run PROMPTS=prompts.jsonl bash benchmarks/train_head.sh             # the target answers first
#
# WORK       folder of everything that is made: answers, features, states of the runs, heads
# ANSWERS    answer files, separated by spaces; more tokens are worth more than anything below
# PROMPTS    JSON lines of prompts; their answers join ANSWERS. Long ones belong here too: answers to prompts of 300 to
#            1000 tokens teach the head what summaries and quoted passages are like.
# EPOCHS     passes over the answers in stage 1; a million answer tokens passed three times are learned by heart
# EPOCHS_2   passes in stage 2, each takes about twice as long
# START      a finished head to go on from: stage 1 is left out, and stage 2 begins with it
# MINUTES    of steps of stage 2, in place of EPOCHS_2; EMA_2: of its averaged weights (0.99)
# LAYERS     2; 1 is cheaper to train and to draft with
# CACHE_GB   room for features in bfloat16: 1.2 kB a token for the default target
# OUT        where the head goes; without it into the user's cache
set -euo pipefail
cd "$(dirname "$0")/.."
: "${WORK:?set it to the folder of the run}"
eyas() { "${PYTHON:-python}" -m eyas "$@"; }
mkdir -p "$WORK"
read -r -a answers <<<"${ANSWERS:-}"

# 1. Answers: half of them greedy, the others at 0.7 and 1; each prompt and its answer fit into MAX_LENGTH below.
if [ -n "${PROMPTS:-}" ]; then
  eyas train distil --prompts "$PROMPTS" --out "$WORK/answers.jsonl" --temperatures 0,0.7,1 --shares 0.5,0.15,0.35 \
    --max-prompt-tokens 1024 --max-new-tokens 256 --loop-tokens 40 --batch-size 64 \
    --keep-features "$WORK/features" --feature-gb "${CACHE_GB:-16}"
  answers+=("$WORK/answers.jsonl")
fi
[ ${#answers[@]} -gt 0 ] || { echo "set ANSWERS or PROMPTS" >&2; exit 2; }

# What both stages share. Rows of a batch are padded ones; rows of prompts count for little and cost little.
recipe=(--answers "${answers[@]}" --dtype bfloat16 --layers "${LAYERS:-2}" --draft-vocab 8192
  --max-length 1280 --batch-rows "${BATCH_ROWS:-2400}" --weight-decay 0.02 --clip-norm 1 --ce-weight 1
  --scaled-regression --noise 0 --first-pair
  --features "$WORK/features" --feature-gb "${CACHE_GB:-16}")

# 2. Teacher forcing from the closed-form start.
start="${START:-$WORK/stage-1/head}"
if [ -z "${START:-}" ] && [ ! -f "$start/config.json" ]; then
  eyas train eagle "${recipe[@]}" --work "$WORK/stage-1" --out "$WORK/stage-1/head" \
    --epochs "${EPOCHS:-2.5}" --learning-rate "${RATE:-1e-3}" --warmup 0.02 --closed-form-start \
    --regression-weight 0.1 --prompt-share 0.1 --ema 0.998
fi

# 3. Training-time test: the head on its own outputs, three steps deep.
eyas train eagle "${recipe[@]}" --work "$WORK/stage-2" ${OUT:+--out "$OUT"} --start "$start" \
  --epochs "${EPOCHS_2:-0.8}" ${MINUTES:+--minutes "$MINUTES"} --learning-rate "${RATE_2:-4e-4}" --warmup 0.04 \
  --steps 3 --step-share 0.4 --regression-weight 0.05 --prompt-share 0.05 --ema "${EMA_2:-0.99}"
