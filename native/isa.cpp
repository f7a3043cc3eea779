#include <cstring>

#include "kernels.h"

namespace eyas {

namespace {
struct Choice {
  const Kernels* kernels;
  bool present;
};
}  // namespace

const Kernels* find_kernels(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  const Choice choices[] = {{&kAvx512Bf16, bf16}, {&kAvx512, avx512}, {&kAvx2, avx2}, {&kPortable, true}};
#else
  const Choice choices[] = {{&kPortable, true}};
#endif
  for (const Choice& choice : choices)
    if (choice.present && (!name || std::strcmp(name, choice.kernels->name) == 0)) return choice.kernels;
  return nullptr;
}

}  // namespace eyas
