// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/assert.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/linear_kernels.hpp"

namespace foretoken::cpu {
namespace {

constexpr std::size_t whole_blocks(std::size_t columns) {
  return (columns + block_columns - 1) / block_columns;
}

// Bytes a row takes of each part, in the order in which the parts lie; each part starts at a cache
// line.
struct part_sizes {
  std::size_t values = 0, records = 0, bytes = 0, words = 0, offset_starts = 0, scales = 0,
              int_sums = 0, half_sums = 0;

  part_sizes(std::size_t blocks,
             const options& chosen,
             input_parts keep,
             const linear_kernels& kernels) {
    const std::size_t columns = blocks * block_columns;
    const bool integers = chosen.precision != numerics::float32;
    const std::size_t planes = chosen.precision == numerics::exact ? 2 : 1;
    if (keep.floats || !integers) values = columns * 4;
    if (!integers) return;
    if (keep.groups || !kernels.records) half_sums = blocks * 8;
    if (kernels.records) {
      records = blocks * sizeof(block_terms) + columns * planes;
      if (keep.groups) offset_starts = blocks * planes * 32;
      return;
    }
    if (kernels.bytes) bytes = columns * planes;
    if (kernels.words) words = columns * 2;
    scales = blocks * 4;
    int_sums = blocks * 8;
  }
  std::size_t total() const noexcept {
    return values + records + bytes + words + offset_starts + 2 * scales + int_sums + half_sums;
  }
};

constexpr std::size_t parts = 9;  // each may be rounded up to a line

const linear_kernels& kernels_for(const options& chosen) {
  const auto path = choose_isa(chosen.path);
  FORETOKEN_ASSERT(path.has_value());  // the weights were prepared for it
  return kernels_of(*path);
}

// A value of block `at`, in units of its scale.
int quant_of(const activations::storage& s, std::size_t at, int within) noexcept {
  if (s.words != nullptr) return s.words[at * block_columns + static_cast<std::size_t>(within)];
  const auto* const q =
      reinterpret_cast<const std::int8_t*>(s.record(at) + sizeof(block_terms)) + within;
  return s.planes == 2 ? 256 * q[0] + q[block_columns] : q[0];
}

}  // namespace

std::uint64_t activations::bytes(int rows_max,
                                 int columns_max,
                                 const options& chosen,
                                 input_parts keep) {
  const part_sizes sizes(whole_blocks(static_cast<std::size_t>(columns_max)), chosen, keep,
                         kernels_for(chosen));
  return static_cast<std::uint64_t>(rows_max) * sizes.total() + parts * 64;
}

activations::activations(int rows_max, int columns_max, const options& chosen, input_parts keep)
    : storage_(std::make_unique<storage>()) {
  FORETOKEN_ASSERT(rows_max > 0 && columns_max > 0);
  storage& s = *storage_;
  s.kernels = &kernels_for(chosen);
  s.rows_max = rows_max;
  s.blocks = whole_blocks(static_cast<std::size_t>(columns_max));
  s.stride = s.blocks * block_columns;
  if (chosen.precision != numerics::float32) s.planes = chosen.precision == numerics::exact ? 2 : 1;
  const part_sizes sizes(s.blocks, chosen, keep, *s.kernels);
  auto memory = memory_block::take(bytes(rows_max, columns_max, chosen, keep));
  FORETOKEN_ASSERT(memory.has_value());  // address space only: the plan was checked before
  s.memory = std::move(memory).value();
  std::byte* at = s.memory.data();
  const auto cut = [&]<class Value>(Value*& part, std::size_t row_bytes) {
    if (row_bytes == 0) return;
    part = reinterpret_cast<Value*>(at);
    at += (row_bytes * static_cast<std::size_t>(rows_max) + 63) / 64 * 64;
  };
  cut(s.values, sizes.values);
  cut(s.records, sizes.records);
  cut(s.bytes, sizes.bytes);
  cut(s.words, sizes.words);
  cut(s.offset_starts, sizes.offset_starts);
  cut(s.scales, sizes.scales);
  cut(s.sums, sizes.scales);
  cut(s.int_sums, sizes.int_sums);
  cut(s.half_sums, sizes.half_sums);
}

activations::~activations() = default;
activations::activations(activations&&) noexcept = default;

void activations::set(int row, const float* x, int columns) {
  set_part(row, 0, x, columns);
}

void activations::set_part(int row, int first, const float* x, int columns) {
  const storage& s = *storage_;
  const auto count = static_cast<std::size_t>(columns);
  const auto from = static_cast<std::size_t>(first);
  FORETOKEN_ASSERT(row >= 0 && row < s.rows_max && columns > 0 && first % block_columns == 0 &&
                   from + count <= s.stride);
  if (s.values != nullptr) std::memcpy(s.values + s.row(row) + from, x, count * sizeof(float));
  if (s.planes == 0) return;
  const std::size_t at = s.block(row) + from / block_columns;
  const std::size_t whole = count / block_columns;
  s.kernels->quantise(s, {x, block_columns, at, 1, static_cast<int>(whole)});
  if (count % block_columns == 0) return;
  float padded[block_columns] = {};
  std::copy_n(x + whole * block_columns, count % block_columns, padded);
  s.kernels->quantise(s, {padded, block_columns, at + whole, 1, 1});
}

void activations::set_block(
    int first_row, int rows, int first, const float* x, std::size_t stride) {
  const storage& s = *storage_;
  const auto from = static_cast<std::size_t>(first);
  FORETOKEN_ASSERT(first_row >= 0 && first_row + rows <= s.rows_max && first % block_columns == 0 &&
                   from + block_columns <= s.stride);
  for (int i = 0; s.values != nullptr && i < rows; ++i) {
    std::memcpy(s.values + s.row(first_row + i) + from, x + static_cast<std::size_t>(i) * stride,
                block_columns * sizeof(float));
  }
  if (s.planes == 0) return;
  s.kernels->quantise(s, {x, stride, s.block(first_row) + from / block_columns, s.blocks, rows});
}

void activations::errors(int row, const float* x, int columns, float* squares) const noexcept {
  const storage& s = *storage_;
  for (int first = 0; first < columns; first += block_columns) {
    const std::size_t at = s.block(row) + static_cast<std::size_t>(first / block_columns);
    const auto scale = static_cast<double>(s.scale(at));
    double sum = 0;
    for (int k = first; k < std::min(columns, first + block_columns); ++k) {
      const double away = static_cast<double>(x[k]) - scale * quant_of(s, at, k - first);
      sum += away * away;
    }
    squares[first / block_columns] = static_cast<float>(sum);
  }
}

}  // namespace foretoken::cpu
