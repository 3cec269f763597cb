// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "base/assert.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/linear_kernels.hpp"

namespace foretoken::cpu {
namespace {

constexpr std::size_t padded(std::size_t columns) {
  constexpr std::size_t unit = float_chunk_columns;
  return (columns + unit - 1) / unit * unit;
}

// All paths give the same integers, so the best one serves every matrix.
const linear_kernels& best_kernels() {
  static const linear_kernels& best = kernels_of(choose_isa(isa::automatic).value());
  return best;
}

}  // namespace

activations::activations(int rows_max, int columns_max) : storage_(std::make_unique<storage>()) {
  FORETOKEN_ASSERT(rows_max > 0 && columns_max > 0);
  storage& s = *storage_;
  s.rows_max = rows_max;
  s.stride = padded(static_cast<std::size_t>(columns_max));
  s.blocks = s.stride / block_columns;
  const auto rows = static_cast<std::size_t>(rows_max);
  // floats, 16-bit quants; per block a scale and a sum; per half block a float and an integer sum
  const std::size_t bytes = rows * (s.stride * (4 + 2) + s.blocks * (4 + 4 + 8 + 8));
  auto memory = memory_block::take(bytes);
  FORETOKEN_ASSERT(memory.has_value());  // address space only: the plan was checked before
  s.memory = std::move(memory).value();
  std::byte* at = s.memory.data();
  const auto cut = [&at](std::size_t size) { return std::exchange(at, at + size); };
  s.values = reinterpret_cast<float*>(cut(rows * s.stride * 4));
  s.quants = reinterpret_cast<std::int16_t*>(cut(rows * s.stride * 2));
  s.scales = reinterpret_cast<float*>(cut(rows * s.blocks * 4));
  s.sums = reinterpret_cast<float*>(cut(rows * s.blocks * 4));
  s.half_sums = reinterpret_cast<float*>(cut(rows * s.blocks * 8));
  s.int_sums = reinterpret_cast<std::int32_t*>(cut(rows * s.blocks * 8));
}

activations::~activations() = default;
activations::activations(activations&&) noexcept = default;

void activations::set(int row, const float* x, int columns) {
  const storage& s = *storage_;
  const auto count = static_cast<std::size_t>(columns);
  FORETOKEN_ASSERT(row >= 0 && row < s.rows_max && columns > 0 && count <= s.stride);
  float* const values = s.values + s.row(row);
  std::memcpy(values, x, count * sizeof(float));
  std::fill(values + count, values + padded(count), 0.0f);
  best_kernels().quantise(s, row, static_cast<int>(padded(count) / block_columns));
}

}  // namespace foretoken::cpu
