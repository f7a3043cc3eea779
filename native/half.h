// Half-precision numbers (IEEE 754 binary16), as block formats store their scales.
#pragma once

#include <cstdint>
#include <cstring>

namespace eyas {

// Exact, also for denormals, which become normal.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t rest = half & 0x7fffu;
  std::uint32_t bits = rest << 13;  // exponents lie 112 apart
  if (rest >= 0x7c00) {
    bits |= 0x7f800000u;  // infinity or NaN
  } else {
    float x;
    std::memcpy(&x, &bits, 4);
    x *= 0x1p112f;
    std::memcpy(&bits, &x, 4);
  }
  bits |= std::uint32_t(half & 0x8000u) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

}  // namespace eyas
