// The floating-point mode of a thread, the same on all of them: round to nearest, denormals kept.
#pragma once

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
#else
  KeepDenormals() {}
#endif
};

}  // namespace eyas
