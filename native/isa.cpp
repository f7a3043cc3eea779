#include <cstring>

#include "kernels.h"

namespace eyas {

std::vector<const Kernels*> present_kernels() {
  std::vector<const Kernels*> present;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) present.push_back(&kAvx512Bf16);
  if (avx512) present.push_back(&kAvx512);
  if (avx2 && __builtin_cpu_supports("avxvnni")) present.push_back(&kAvxVnni);
  if (avx2) present.push_back(&kAvx2);
#endif
  present.push_back(&kPortable);
  return present;
}

const Kernels* find_kernels(const char* name) {
  for (const Kernels* kernels : present_kernels())
    if (!name || std::strcmp(name, kernels->name) == 0) return kernels;
  return nullptr;
}

}  // namespace eyas
