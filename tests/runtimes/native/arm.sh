#!/usr/bin/env bash
# The engine on ARM, compiled here and run by an emulator: on every instruction set it computes the bits of this machine's
# portable code, and products of block formats are those of the definition. Everything goes to build/arm.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python}
room=$PWD/build/arm

for tool in cmake aarch64-linux-gnu-g++ qemu-aarch64-static; do
  command -v $tool >/dev/null || { echo "ARM is not tested: there is no $tool (Debian: g++-aarch64-linux-gnu qemu-user-static)" >&2; exit 2; }
done

build() { # NAME [OPTION ...]: kernel_digests, in build/arm/NAME
  local place=$room/$1
  cmake -S native -B "$place" -DEYAS_DIGESTS=ON "${@:2}" >"$room/$1.log"
  cmake --build "$place" --parallel "$(nproc)" --target kernel_digests >>"$room/$1.log" || { tail -n 30 "$room/$1.log" >&2; exit 1; }
}
mkdir -p "$room"
build here
build aarch64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DCMAKE_EXE_LINKER_FLAGS=-static

"$python" tests/runtimes/native/write_products.py "$room/products.bin"
"$room/here/kernel_digests" portable "$room/products.bin" >"$room/wanted.txt"
emulated() { qemu-aarch64-static -cpu "$1" "$room/aarch64/kernel_digests" "${@:2}"; } # CPU [ARGUMENT ...]

# What CPUs without and with the newer instructions choose, the best first.
check_sets() { # CPU NAME ...
  local found
  found=$(emulated "$1" | xargs)
  [[ $found == "${*:2}" ]] || { echo "a $1 has $found, not ${*:2}" >&2; exit 1; }
}
check_sets cortex-a57 neon portable
check_sets neoverse-n1 neon-dotprod neon portable
check_sets max neon-i8mm neon-dotprod neon portable

for isa in $(emulated max); do
  emulated max "$isa" "$room/products.bin" >"$room/$isa.txt"
  diff "$room/wanted.txt" "$room/$isa.txt" || { echo "$isa differs from portable code on this machine" >&2; exit 1; }
  echo "$isa: $(wc -l <"$room/$isa.txt") results equal"
done
