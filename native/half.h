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

// The nearest half, ties to even; infinite from 65520 on.
inline std::uint16_t float_to_half(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const std::uint16_t sign = std::uint16_t(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;   // not a number
  if (bits >= 0x47800000) return sign | 0x7c00;  // 65536 and more
  if (bits < 0x38800000) {                       // below 2^-14, where halves are multiples of 2^-24, as floats from 1/2 are
    std::memcpy(&x, &bits, 4);
    x += 0.5f;
    std::memcpy(&bits, &x, 4);
    return std::uint16_t(sign | (bits - 0x3f000000));
  }
  bits += 0x0fff + (bits >> 13 & 1);
  return std::uint16_t(sign | (bits - 0x38000000) >> 13);
}

}  // namespace eyas
