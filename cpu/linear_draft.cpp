// SPDX-License-Identifier: Apache-2.0
// The 4-bit draft of a wide matrix: rows of floats into blocks of q4_0, and those into tiles.

#include <algorithm>
#include <cstring>

#include "base/half.hpp"
#include "cpu/float_weights.hpp"
#include "cpu/linear_plan.hpp"

namespace foretoken::cpu {
namespace {

// The smallest f16 that is not below `value`, which is not negative; infinity and NaN stay.
std::uint16_t half_above(float value) {
  const std::uint16_t bits = float_to_f16(value);
  return static_cast<std::uint16_t>(f16_to_float(bits) < value ? bits + 1 : bits);
}

// 32 weights as quants from -8 to 7 times a scale, whose sign puts the largest weight on the long
// side. The short side reaches to 7.5, so that no weight is off by more than half the scale.
void write_block(const float* weights, std::uint8_t* to) {
  float least = 0, most = 0, poison = 0;
  for (int i = 0; i < block_columns; ++i) {
    least = std::min(least, weights[i]);
    most = std::max(most, weights[i]);
    poison += weights[i] * 0.0f;  // a NaN when one is not finite
  }
  const bool turned = most > -least;
  const float longer = std::max(most, -least), shorter = std::min(most, -least);
  const std::uint16_t half = half_above(std::max(longer / 8, shorter / 7.5f) + poison);
  const float scale = f16_to_float(half);
  const float inverse = scale > 0 ? (turned ? -1 : 1) / scale : 0.0f;
  const auto stored = static_cast<std::uint16_t>(turned ? half | 0x8000u : half);
  std::memcpy(to, &stored, sizeof stored);
  unsigned quants[block_columns];
  for (int i = 0; i < block_columns; ++i) {
    const float quant = std::clamp(weights[i] * inverse + 8.5f, 0.0f, 15.5f);
    quants[i] = static_cast<unsigned>(static_cast<int>(quant));
  }
  for (int i = 0; i < block_columns / 2; ++i) {
    to[2 + i] = static_cast<std::uint8_t>(quants[i] | (quants[i + block_columns / 2] << 4));
  }
}

linear_plan draft_plan(const model::tensor& wide) {
  linear_section section;
  section.tiles = static_cast<int>((wide.rows + tile_rows - 1) / tile_rows);
  section.integer = true;
  section.integers = quantised(model::dtype::q4_0).form;
  section.tile_bytes =
      static_cast<std::uint64_t>(wide.columns / block_columns) * section.integers.record_bytes();
  linear_plan plan;
  plan.rows = static_cast<int>(wide.rows);
  plan.columns = static_cast<int>(wide.columns);
  plan.sections = {section};
  return plan;
}

// One tile as a matrix of its own.
void pack_draft_tile(const model::tensor& wide, int tile, std::byte* to) {
  const std::int64_t first = std::int64_t{tile} * tile_rows;
  model::tensor rows;
  rows.type = model::dtype::q4_0;
  rows.rows = std::min<std::int64_t>(tile_rows, wide.rows - first);
  rows.columns = wide.columns;
  std::vector<float> weights(static_cast<std::size_t>(wide.columns));
  std::vector<std::byte> blocks;
  const std::size_t block_bytes = quantised(rows.type).bytes;
  const auto blocks_a_row = static_cast<std::size_t>(wide.columns / block_columns);
  blocks.resize(static_cast<std::size_t>(rows.rows) * blocks_a_row * block_bytes);
  auto* at = reinterpret_cast<std::uint8_t*>(blocks.data());
  for (std::int64_t n = 0; n < rows.rows; ++n) {
    model::dequantise(wide, first + n, 1, weights.data());
    for (std::size_t b = 0; b < blocks_a_row; ++b, at += block_bytes) {
      write_block(weights.data() + b * block_columns, at);
    }
  }
  rows.bytes = blocks;
  linear_plan plan = draft_plan(rows);
  plan.parts = std::span(&rows, 1);
  pack_tile(plan, plan.sections.front(), 0, to);
}

}  // namespace

bool can_draft(const model::tensor& wide, const options& chosen) noexcept {
  // A draft's bounds are against the file's weights, which a head of w8 no longer has.
  if (packs_w8(wide, chosen)) return false;
  const quantised_type& type = quantised(wide.type);
  return chosen.precision != numerics::float32 && (type.values == 0 || type.form.bits > 4) &&
         wide.columns % block_columns == 0;
}

std::uint64_t draft_bytes(const model::tensor& wide) noexcept {
  return draft_plan(wide).bytes();
}

result<linear::blank> linear::lay_out_draft(const model::tensor& wide, const options& chosen) {
  return lay_out_plan(draft_plan(wide), chosen, wide.name);
}

result<std::unique_ptr<const linear>> linear::pack_draft(const model::tensor& wide,
                                                         const options& chosen,
                                                         thread_pool& threads) {
  auto made = lay_out_draft(wide, chosen);
  if (!made) return std::move(made).error();
  const linear& matrix = *made->matrix;
  const std::size_t tile_bytes = made->bytes.size() / static_cast<std::size_t>(matrix.tiles());
  threads.run(matrix.tiles(), [&](int tile, int) {
    pack_draft_tile(wide, tile, made->bytes.data() + tile_bytes * static_cast<std::size_t>(tile));
  });
  return std::move(made->matrix);
}

}  // namespace foretoken::cpu
