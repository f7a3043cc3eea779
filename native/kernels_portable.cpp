#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "kernels.h"

namespace eyas::portable {
#include "simd_portable.h"
#include "simd_sums.h"
#include "kernels.inl"
}  // namespace eyas::portable

namespace eyas {
const Kernels kPortable = portable::make("portable");
}
