// SPDX-License-Identifier: Apache-2.0
// The row kernels compiled for AVX2 with FMA and F16C.
// Nothing of the standard library may be instantiated below the target pragma: a shared inline
// function compiled for this instruction set could win at link time.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/half.hpp"
#include "cpu/row_kernels.hpp"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")

namespace foretoken::cpu {
namespace {
#include "cpu/vector_avx2.inl"

#include "cpu/row_kernels.inl"

#include "cpu/attention.inl"

constexpr row_kernels table{
    "avx2",         rms_norm,    layer_norm, silu_gate,  gelu_gate,         silu_gate_tile,
    gelu_gate_tile, gelu,        softcap,    to_half,    to_bf16,           to_int8,
    scale_spread,   read_column, add_column, largest_of, attend_with_floats};
}  // namespace

const row_kernels& row_kernels_avx2() noexcept {
  return table;
}

}  // namespace foretoken::cpu
#endif
