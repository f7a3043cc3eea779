#!/usr/bin/env bash
# A fair comparison: plain decoding and every method, with the paper's tree and at its best (cost-aware trees with
# prompt lookup; EAGLE-2 also without lookup), in turns on one machine. 10 questions of each of six sets, 128 new
# tokens, T=0 and T=1. Each prompt is answered once by each: its ids are compared with plain decoding's, and its
# seconds count only if they are equal. About 50 minutes on two quiet cores.
#
# In pieces of two questions of each set, so that an early stop leaves a whole comparison: Ctrl-C, or MINUTES, ends it
# within an answer, and the same command resumes. Nothing else should run: check the load that it prints.
#
#   EYAS_EVAL_DATA=folder bash benchmarks/fair.sh               # all of it, into benchmarks/results/fair
#   EYAS_EVAL_DATA=folder MINUTES=20 bash benchmarks/fair.sh    # twenty minutes of it; again for the next twenty
#
# LIMIT      questions of each set (10)
# MINUTES    stop after so many
# DTYPE      precision of the model (bfloat16)
# OUT        the result folder
# More words are passed to `eyas bench run`, such as --max-new-tokens 64 or --threads 2.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
eyas() { "${PYTHON:-python}" -m eyas "$@"; }
out=${OUT:-benchmarks/results/fair} limit=${LIMIT:-10} dtype=${DTYPE:-bfloat16}
deadline=${MINUTES:+$((SECONDS + 60 * MINUTES))}
echo "load average before the start: $(cut -d' ' -f1 /proc/loadavg) on $(getconf _NPROCESSORS_ONLN) cores" >&2

if [ ! -e "$out" ]; then # measure cost tables again: the machine may have been busy the last time
  for method in $("${PYTHON:-python}" -c \
    "from eyas.drafters.registry import methods; print(*[n for n, m in methods().items() if m.is_sizable])"); do
    eyas calibrate --method "$method" --runtime native --dtype "$dtype" >/dev/null ||
      [ $? -eq 2 ] # it lacks its networks here, as its error says, and is left out below
  done
fi

code=0
for ((questions = limit % 2 ? 1 : 2; questions <= limit; questions += 2)); do
  stop=()
  if [ -n "$deadline" ]; then
    [ "$deadline" -gt "$SECONDS" ] || break
    stop=(timeout --foreground --signal=INT "$((deadline - SECONDS))")
  fi
  found=0
  "${stop[@]}" "${PYTHON:-python}" -m eyas bench run --methods all auto eagle2:tree=auto,lookup=false \
    --questions mt_bench humaneval gsm8k alpaca sum qa --limit "$questions" --turns 1 --temperature 0,1 \
    --repeats 1 --no-cycles --max-new-tokens 128 --runtime native --dtype "$dtype" --out "$out" "$@" \
    >/dev/null || found=$?
  [ "$found" -ne 124 ] || break # out of time
  [ "$found" -le 1 ] || exit "$found"
  code=$found # 1: answers were lost or differ; the report lists them
done
eyas bench report "$out"
exit "$code"
