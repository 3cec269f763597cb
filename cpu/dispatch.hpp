// SPDX-License-Identifier: Apache-2.0
#pragma once
// The one question to the processor: which instruction sets it and the system offer.

#include "base/result.hpp"
#include "cpu/options.hpp"

namespace foretoken::cpu {

struct cpu_features {
  bool avx2 = false;    // AVX2, FMA, F16C
  bool avx512 = false;  // AVX-512 F, BW, DQ, VL, VNNI
  bool avx512_bf16 = false;
};

// Asked once, then remembered.
const cpu_features& features() noexcept;

// What `wanted` means on this processor; never `automatic`. Error: unsupported, field "cpu.isa".
result<isa> choose_isa(isa wanted);

const char* isa_name(isa path) noexcept;

}  // namespace foretoken::cpu
