#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "kernels.h"

#define EYAS_NEON 0

namespace eyas::neon {
#include "simd_neon.h"
#include "simd_sums.h"
#include "kernels.inl"
}  // namespace eyas::neon

namespace eyas {
const Kernels kNeon = neon::make("neon");
}
