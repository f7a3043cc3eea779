#!/usr/bin/env bash
# The kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer; everything goes to build/sanitize.
# The package is built as pip builds it, so nothing has to be there but pip, g++ and the test extra.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python}
room=$PWD/build/sanitize

"$python" -m pip install --quiet --no-deps --upgrade --target "$room/site" \
  -C build-dir="$room/cmake" -C cmake.define.EYAS_SANITIZE=ON -C install.strip=false .

# -S leaves out .pth files, and with them an editable eyas that would come before ours.
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# libstdc++ beside libasan: what throws is loaded later, and its thrower must be known from the start.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export LD_PRELOAD ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$room/site:$packages"
"$python" -S -c 'import sys, eyas._native as native
assert native.__file__.startswith(sys.argv[1]), native.__file__' "$room"
exec "$python" -S -m pytest --noconftest -p no:cacheprovider -o pythonpath=tests -q \
  tests/runtimes/native/test_native_{products,stacks,rows,paths,sampling,quantise,eagle_head}.py tests/drafters/test_tree_builder.py "$@"
