#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "kernels.h"

#define EYAS_NEON 2

namespace eyas::neon_i8mm {
#include "simd_neon.h"
#include "simd_sums.h"
#include "kernels.inl"
}  // namespace eyas::neon_i8mm

namespace eyas {
const Kernels kNeonI8mm = neon_i8mm::make("neon-i8mm");
}
