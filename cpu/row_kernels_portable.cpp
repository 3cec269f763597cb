// SPDX-License-Identifier: Apache-2.0
// The row kernels in plain C++, for any processor.

#include <bit>

#include "base/half.hpp"
#include "cpu/row_kernels.hpp"

namespace foretoken::cpu {
namespace {
#include "cpu/vector_portable.inl"

#include "cpu/row_kernels.inl"

#include "cpu/attention.inl"

constexpr row_kernels table{
    "portable",     rms_norm,    layer_norm, silu_gate,  gelu_gate,         silu_gate_tile,
    gelu_gate_tile, gelu,        softcap,    to_half,    to_bf16,           to_int8,
    scale_spread,   read_column, add_column, largest_of, attend_with_floats};
}  // namespace

const row_kernels& row_kernels_portable() noexcept {
  return table;
}

}  // namespace foretoken::cpu
