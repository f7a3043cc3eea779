// The floating-point mode of a thread, the same on all of them: round to nearest, denormals kept.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace eyas {

class KeepDenormals {
 public:
#if defined(__SSE2__)
  KeepDenormals() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~KeepDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  KeepDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    set(0);
  }
  ~KeepDenormals() { set(before_); }

 private:
  static void set(std::uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }

  std::uint64_t before_;
#else
  KeepDenormals() {}
#endif
};

}  // namespace eyas
