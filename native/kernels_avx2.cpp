#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "kernels.h"

namespace eyas::avx2 {
#include "simd_avx2.h"
#include "simd_sums.h"
#include "kernels.inl"
}  // namespace eyas::avx2

namespace eyas {
const Kernels kAvx2 = avx2::make("avx2");
}
