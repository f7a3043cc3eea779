#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "kernels.h"

#define EYAS_AVX_VNNI 1

namespace eyas::avxvnni {
#include "simd_avx2.h"
#include "simd_sums.h"
#include "kernels.inl"
}  // namespace eyas::avxvnni

namespace eyas {
const Kernels kAvxVnni = avxvnni::make("avxvnni");
}
