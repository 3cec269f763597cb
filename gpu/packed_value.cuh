// SPDX-License-Identifier: Apache-2.0
#pragma once
// One value out of a packed matrix, for the few rows that are read by themselves: the embedding.

#include "gpu/kernels.hpp"
#include "gpu/numerics.cuh"

namespace foretoken::gpu {

FORETOKEN_DEVICE float packed_value(const packed_matrix& w, int row, int column) {
  const std::size_t steps = wide(padded_columns(w.columns) / 16);
  const std::size_t tile = wide(row / 16);
  const std::size_t step = wide(column / 16);
  const int at = fragment_offset(row % 16, column % 16);
  const std::size_t fragment = (tile * steps + step) * 256 + wide(at);
  std::uint16_t half = 0;
  if (w.form == weight_form::f16) {
    half = static_cast<const std::uint16_t*>(w.codes)[fragment];
  } else {
    const std::uint32_t both = w.scales[(tile * (steps / 2) + step / 2) * 16 + wide(row % 16)];
    const auto* codes = static_cast<const unsigned char*>(w.codes);
    std::uint32_t code = 0;
    if (w.form == weight_form::w8) {
      code = codes[fragment];
    } else {
      const std::uint32_t word = reinterpret_cast<const std::uint32_t*>(codes)[fragment / 8];
      code = word >> (4 * (at % 8 / 2) + 16 * (at % 2)) & 15;
    }
    half = static_cast<std::uint16_t>(
        half_pair_fma(both, half_pair(static_cast<float>(code), 0), both >> 16));
  }
  return float_of(half) * (w.row_scale != nullptr ? w.row_scale[row] : 1.0f);
}

}  // namespace foretoken::gpu
