// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.hpp"

#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "cpu/backend.hpp"

namespace foretoken::cpu {
namespace {

cpu_features ask() noexcept {
  cpu_features found;
#if defined(__x86_64__)
  __builtin_cpu_init();  // also looks at what the system saves and restores (XGETBV)
  // F16C by cpuid itself: clang 14 does not know the name.
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  found.avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 && f16c;
  found.avx512 =
      found.avx2 && __builtin_cpu_supports("avx512f") != 0 &&
      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
      __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
  found.avx512_bf16 = found.avx512 && __builtin_cpu_supports("avx512bf16") != 0;
#endif
  return found;
}

bool available(isa path) noexcept {
  switch (path) {
    case isa::avx512: return features().avx512;
    case isa::avx2: return features().avx2;
    case isa::automatic:
    case isa::portable: return true;
  }
  return false;
}

isa best() noexcept {
  if (features().avx512) return isa::avx512;
  return features().avx2 ? isa::avx2 : isa::portable;
}

}  // namespace

const cpu_features& features() noexcept {
  static const cpu_features found = ask();
  return found;
}

result<isa> choose_isa(isa wanted) {
  if (wanted == isa::automatic) return best();
  if (available(wanted)) return wanted;
  return unsupported("cpu.isa", std::string("this processor does not have ") + isa_name(wanted));
}

const char* isa_name(isa path) noexcept {
  switch (path) {
    case isa::automatic: return "automatic";
    case isa::avx512: return "avx512";
    case isa::avx2: return "avx2";
    case isa::portable: return "portable";
  }
  return "unknown";
}

const char* path_name(isa wanted) noexcept {
  const auto path = choose_isa(wanted);
  return path ? isa_name(*path) : "none";
}

}  // namespace foretoken::cpu
