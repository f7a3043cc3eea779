#!/usr/bin/env bash
# An EAGLE-3 head for a GGUF file, from prompts to a calibrated head. Every step goes on where an interruption left it:
# run the same command again. docs/training.md says what the options do.
#
#   MODEL=model.gguf PROMPTS=prompts.jsonl OTHERS=others.jsonl WORK=run bash benchmarks/train_eagle3.sh
#
# MODEL      the target: its answers and hidden states, at its own bits, are what the head learns from
# PROMPTS    JSON lines of prompts, in the order in which they are answered: mix the kinds
# OTHERS     prompts that the head is not trained on, for the calibration
# WORK       folder of everything that is made: answers, hidden states, the state of the run, the head
# DISTIL     minutes of answering (60); whatever was answered by then is trained on
# MINUTES    minutes of training steps (60)
# VOCAB      size of the draft vocabulary (8192)
# MLP        width of the head's MLP (the target's)
# FEATURES   gigabytes for hidden states (10); a token takes 4.25 bytes for each number of the hidden size
# More words are passed to `eyas train eagle3`, such as --learning-rate 1e-3 or --target-lm-head.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${MODEL:?set it to a GGUF file}" "${PROMPTS:?set it to a file of prompts}" "${WORK:?set it to a folder}"
: "${OTHERS:?set it to a file of other prompts}"
eyas() { "${PYTHON:-python}" -m eyas "$@"; }
mkdir -p "$WORK"
answers=$WORK/answers.jsonl features=(--feature-gb "${FEATURES:-10}")

# 1. Answers with three taps and the final state: half of them greedy.
if [ ! -e "$WORK/answered" ]; then
  found=0
  timeout --foreground --signal=INT "$((60 * ${DISTIL:-60}))" "${PYTHON:-python}" -m eyas train distil \
    --model "$MODEL" --prompts "$PROMPTS" --out "$answers" --temperatures 0,0.7,1 --shares 0.5,0.15,0.35 \
    --max-prompt-tokens 512 --max-new-tokens 256 --loop-tokens 40 --batch-size 64 \
    --keep-features "$WORK/features" --taps eagle3 --feature-dtype int8 "${features[@]}" || found=$?
  [ "$found" -eq 0 ] || [ "$found" -eq 124 ] || exit "$found" # 124: the time is over
  touch "$WORK/answered"
fi

# 2. The head, from these alone.
eyas train eagle3 --model "$MODEL" --answers "$answers" --features "$WORK/features" "${features[@]}" \
  --work "$WORK/run" --out "$WORK/head" --minutes "${MINUTES:-60}" --dtype bfloat16 --draft-vocab "${VOCAB:-8192}" \
  ${MLP:+--intermediate-size "$MLP"} --fc-norm --norm-output --steps 3 --step-share 0.5 --first-pair \
  --batch-rows 2400 --learning-rate 5e-4 --warmup 0.03 --schedule cosine --weight-decay 0.02 --clip-norm 1 --ema 0.998 \
  --precision int8 "$@"

# 3. How often is a confidence of 0.8 accepted?
eyas train acceptance --model "$MODEL" --head "$WORK/head" --prompts "$OTHERS" --limit 60
