#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "kernels.h"

#define EYAS_NEON 1

namespace eyas::neon_dotprod {
#include "simd_neon.h"
#include "simd_sums.h"
#include "kernels.inl"
}  // namespace eyas::neon_dotprod

namespace eyas {
const Kernels kNeonDotprod = neon_dotprod::make("neon-dotprod");
}
