// SPDX-License-Identifier: Apache-2.0
// The matrix kernels in plain C++: for processors without AVX2, and to check the others.

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/half.hpp"
#include "cpu/linear_kernels.hpp"
#include "cpu/linear_unpack.hpp"

namespace foretoken::cpu {
namespace {

// One block of 32 columns. The other instruction sets must give the same integers and scales.
void quantise_block(const activations::storage& to, std::size_t at, const float* x) {
  std::int16_t* const q = to.words + at * block_columns;
  std::uint32_t largest = 0;  // bits of |x|: NaN > infinity > every finite value
  for (int i = 0; i < block_columns; ++i) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(x[i]) & 0x7FFFFFFFu);
  }
  const block_scale scale = scale_for(largest, to.planes);
  if (!(scale.power > 0)) {  // zeros, or NaN that must reach the logits
    std::fill_n(q, block_columns, std::int16_t{0});
    return to.put_sums(at, scale.value(), 0, 0);
  }
  const float inverse = 1.0f / scale.value();
  std::int32_t half[2] = {0, 0};
  for (int i = 0; i < block_columns; ++i) {
    q[i] = static_cast<std::int16_t>(std::lrintf(x[i] * inverse));
    half[i / 16] += q[i];
  }
  to.put_sums(at, scale.value(), half[0], half[1]);
}

void quantise(const activations::storage& to, const block_walk& walk) {
  for (int i = 0; i < walk.count; ++i) quantise_block(to, walk.block(i), walk.values(i));
}

void widen_scales(const std::byte* from, float* out) {
  for (int i = 0; i < tile_rows; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, from + 2 * i, sizeof bits);
    out[i] = f16_to_float(bits);
  }
}

void integer_group(const std::int16_t (*weights)[pair_words],
                   const std::int16_t* q,
                   int pairs,
                   std::int32_t* sums) {
  std::fill_n(sums, tile_rows, 0);
  for (int j = 0; j < pairs; ++j) {
    const std::int32_t even = q[2 * j];
    const std::int32_t odd = q[2 * j + 1];
    for (int r = 0; r < tile_rows; ++r) {
      sums[r] += weights[j][2 * r] * even + weights[j][2 * r + 1] * odd;
    }
  }
}

// A block of 32 columns of one row of x.
struct input_block {
  const std::int16_t* q;
  float scale, sum;
  const float* half_sums;
};

input_block input_at(const activations::storage& x, int m, int block) {
  const auto index = static_cast<std::size_t>(block);
  const std::size_t at = x.block(m) + index;
  return {x.words + x.row(m) + index * block_columns, x.scales[at], x.sums[at],
          x.half_sums + 2 * at};
}

// Adds block b of the chunk to the 64 outputs of one row of x.
void integer_block(
    const integer_chunk& chunk, int b, const integer_form& form, const input_block& x, float* y) {
  for (int g = 0; g < form.groups(); ++g) {
    std::int32_t sums[tile_rows];
    const int pairs = form.group / 2;
    integer_group(&chunk.weights[b][g * pairs], x.q + g * form.group, pairs, sums);
    const float x_sum = form.group == 32 ? x.sum : x.half_sums[g];
    for (int r = 0; r < tile_rows; ++r) {
      y[r] += static_cast<float>(sums[r]) * (chunk.scales[b][g][r] * x.scale);
      if (form.has_minima) y[r] += chunk.minima[b][g][r] * x_sum;
    }
  }
}

void integer_tile(const integer_stream& tile,
                  const integer_form& form,
                  const activations::storage& x,
                  row_range rows,
                  tile_output out) {
  integer_chunk chunk;
  const std::byte* records = tile.records;
  for (int first = 0; first < tile.blocks; first += chunk_blocks) {
    const int count = std::min(chunk_blocks, tile.blocks - first);
    unpack_chunk(records, count, form, widen_scales, chunk);
    records += form.record_bytes() * static_cast<std::size_t>(count);
    for (int m = rows.begin; m < rows.end; ++m) {
      float* const y = out.y + static_cast<std::size_t>(m) * out.stride;
      if (first == 0) std::fill_n(y, tile_rows, 0.0f);
      for (int b = 0; b < count; ++b) {
        integer_block(chunk, b, form, input_at(x, m, first + b), y);
      }
    }
  }
}

float load_float(const std::byte* values, std::size_t index, float_form form) {
  if (form == float_form::f32) {
    float value;
    std::memcpy(&value, values + 4 * index, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, values + 2 * index, sizeof bits);
  return form == float_form::f16 ? f16_to_float(bits) : bf16_to_float(bits);
}

void float_tile(const std::byte* values,
                int columns,
                float_form form,
                const activations::storage& x,
                row_range rows,
                tile_output out) {
  float weights[float_chunk_columns][tile_rows];
  for (int first = 0; first < columns; first += float_chunk_columns) {
    const int count = std::min(float_chunk_columns, columns - first);
    for (int k = 0; k < count; ++k) {
      for (int r = 0; r < tile_rows; ++r) {
        weights[k][r] =
            load_float(values, static_cast<std::size_t>((first + k) * tile_rows + r), form);
      }
    }
    for (int m = rows.begin; m < rows.end; ++m) {
      const float* const x_row = x.values + x.row(m) + first;
      float sums[tile_rows] = {};
      for (int k = 0; k < count; ++k) {
        for (int r = 0; r < tile_rows; ++r) sums[r] += weights[k][r] * x_row[k];
      }
      float* const y = out.y + static_cast<std::size_t>(m) * out.stride;
      for (int r = 0; r < tile_rows; ++r) y[r] = first == 0 ? sums[r] : y[r] + sums[r];
    }
  }
}

}  // namespace

const linear_kernels portable_kernels{false, false, true, quantise, integer_tile, float_tile};

}  // namespace foretoken::cpu
