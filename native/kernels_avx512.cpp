#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "kernels.h"

#define EYAS_BF16 0

namespace eyas::avx512 {
#include "simd_avx512.h"
#include "kernels.inl"
}  // namespace eyas::avx512

namespace eyas {
const Kernels kAvx512 = avx512::make("avx512");
}
