#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "kernels.h"

#define EYAS_BF16 1

namespace eyas::avx512bf16 {
#include "simd_avx512.h"
#include "kernels.inl"
}  // namespace eyas::avx512bf16

namespace eyas {
const Kernels kAvx512Bf16 = avx512bf16::make("avx512bf16");
}
