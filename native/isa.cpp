#include <cstring>

#include "kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace eyas {

namespace {

bool always() { return true; }

#if defined(__x86_64__)

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
bool has_avxvnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"); }

#elif defined(__aarch64__)

#if defined(__linux__)
bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }                   // HWCAP_ASIMDDP
bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1); }  // HWCAP2_I8MM
#elif defined(__APPLE__)
bool has(const char* feature) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_dotprod() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_dotprod() && has("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_dotprod() { return false; }
bool has_i8mm() { return false; }
#endif

#endif

struct InstructionSet {
  const Kernels* kernels;
  bool (*is_present)();
};

// The best first.
constexpr InstructionSet kInstructionSets[] = {
#if defined(__x86_64__)
    {&kAvx512Bf16, has_avx512bf16}, {&kAvx512, has_avx512}, {&kAvxVnni, has_avxvnni}, {&kAvx2, has_avx2},
#elif defined(__aarch64__)
    {&kNeonI8mm, has_i8mm},
    {&kNeonDotprod, has_dotprod},
    {&kNeon, always},
#endif
    {&kPortable, always},
};

}  // namespace

std::vector<const Kernels*> present_kernels() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  std::vector<const Kernels*> present;
  for (const InstructionSet& set : kInstructionSets)
    if (set.is_present()) present.push_back(set.kernels);
  return present;
}

const Kernels* find_kernels(const char* name) {
  for (const Kernels* kernels : present_kernels())
    if (!name || std::strcmp(name, kernels->name) == 0) return kernels;
  return nullptr;
}

}  // namespace eyas
