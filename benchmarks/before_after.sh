#!/usr/bin/env bash
# Two versions of eyas in turns on this machine: plain decoding, eagle2 with cost-aware trees, and eight clients of the
# server, in bfloat16 and int8. Prints the ratios of speeds after / before; the ids must be equal. About half an hour on
# two quiet cores; run it again after an interruption, and it resumes.
#
#   EYAS_EVAL_DATA=folder BEFORE=old/bin/python AFTER="env PYTHONPATH=new/src new/bin/python" \
#     bash benchmarks/before_after.sh
#
# OUT        the folder of results (build/before-after)
# PYTHON     runs the clients; needs httpx (python)
# More words are passed to before_after.py: --dtypes bfloat16, --prompts 12, --repeats 2, --rounds 0, --threads 2.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EYAS_EVAL_DATA:?set it to the folder with the question files}"
: "${BEFORE:?set it to the Python of the older version}" "${AFTER:?set it to the Python of the newer version}"
exec "${PYTHON:-python}" benchmarks/before_after.py --before "$BEFORE" --after "$AFTER" \
  --out "${OUT:-build/before-after}" "$@"
