// SPDX-License-Identifier: Apache-2.0
// The row kernels compiled for AVX-512.
// Nothing of the standard library may be instantiated below the target pragma: a shared inline
// function compiled for this instruction set could win at link time.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/half.hpp"
#include "cpu/row_kernels.hpp"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")

// gcc 12 reports the deliberately undefined pass-through operands inside its own intrinsics.
// It also sees sign conversions in constant pointer offsets of unrolled templates.
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace foretoken::cpu {
namespace {
#include "cpu/vector_avx512.inl"

#include "cpu/row_kernels.inl"

#include "cpu/attention.inl"

#include "cpu/attention_bf16.inl"

void attend(const attention_job& job) {
  if (job.type == kv_type::bf16 && job.bf16_products) return attend_bf16(job);
  attend_with_floats(job);
}

constexpr row_kernels table{"avx512",       rms_norm,       layer_norm,   silu_gate,   gelu_gate,
                            silu_gate_tile, gelu_gate_tile, gelu,         softcap,     to_half,
                            to_bf16,        to_int8,        scale_spread, read_column, add_column,
                            largest_of,     attend};
}  // namespace

const row_kernels& row_kernels_avx512() noexcept {
  return table;
}

}  // namespace foretoken::cpu
#endif
