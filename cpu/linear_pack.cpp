// SPDX-License-Identifier: Apache-2.0
// Rows of the file's tensors into tiles (the layout is in linear_kernels.hpp).

#include <cstring>

#include "base/half.hpp"
#include "cpu/float_weights.hpp"
#include "cpu/linear_plan.hpp"

namespace foretoken::cpu {
namespace {

struct source_row {
  const model::tensor* part = nullptr;  // null: a row of padding
  std::int64_t row = 0;
};

source_row find_row(const linear_plan& plan, int n) {
  if (n >= plan.rows) return {};
  if (plan.interleave16) {
    const model::tensor& part = plan.parts[n / 16 % 2 == 0 ? 0 : 1];
    const std::int64_t row = n / 32 * 16 + n % 16;
    return row < part.rows ? source_row{&part, row} : source_row{};
  }
  std::int64_t row = n;
  for (const model::tensor& part : plan.parts) {
    if (row < part.rows) return {&part, row};
    row -= part.rows;
  }
  return {};
}

const std::uint8_t* block_at(const source_row& source, std::int64_t block) {
  const quantised_type& type = quantised(source.part->type);
  const std::int64_t blocks_a_row = source.part->columns / type.values;
  const auto index = static_cast<std::size_t>(source.row * blocks_a_row + block);
  return reinterpret_cast<const std::uint8_t*>(source.part->bytes.data()) + index * type.bytes;
}

// The 32 quants of a row, four columns side by side.
void put_quants(std::byte* record, int row, int bits, const std::uint8_t* quants) {
  const int step_columns = 32 / bits;
  for (int step = 0; step < block_columns / step_columns; ++step) {
    for (int j = 0; j < 4; ++j) {
      const std::uint8_t* const from = quants + step * step_columns + j;
      const unsigned value = bits == 8 ? from[0] : from[0] | (unsigned{from[4]} << 4);
      record[(step * tile_rows + row) * 4 + j] = static_cast<std::byte>(value);
    }
  }
}

void put_scale(std::byte* scales, bool wide, int group, int row, float value) {
  const auto index = static_cast<std::size_t>(group * tile_rows + row);
  if (wide) {
    std::memcpy(scales + 4 * index, &value, sizeof value);
  } else {
    const std::uint16_t bits = float_to_f16(value);  // exact: it came from f16
    std::memcpy(scales + 2 * index, &bits, sizeof bits);
  }
}

// One block of the file (one or eight records) for one row of the tile.
void pack_block(const quantised_type& type,
                const decoded_block& block,
                int row,
                std::byte* record) {
  const integer_form& form = type.form;
  for (int first = 0; first < type.values; first += block_columns, record += form.record_bytes()) {
    put_quants(record, row, form.bits, block.quants + first);
    std::byte* const scales = record + form.quant_bytes();
    for (int g = 0; g < form.groups(); ++g) {
      const int from = first / form.group + g;
      put_scale(scales, form.wide_scales, g, row, block.scales[from]);
      if (form.has_minima) {
        put_scale(scales + form.scale_bytes(), form.wide_scales, g, row, block.minima[from]);
      }
    }
  }
}

std::size_t element(const source_row& source, int column) {
  const std::int64_t index = source.part->transposed ? column * source.part->rows + source.row
                                                     : source.row * source.part->columns + column;
  return static_cast<std::size_t>(index);
}

float float_at(const source_row& source, int column) {
  const std::byte* const values = source.part->bytes.data();
  const std::size_t index = element(source, column);
  if (source.part->type == model::dtype::f32) {
    float value;
    std::memcpy(&value, values + 4 * index, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, values + 2 * index, sizeof bits);
  return source.part->type == model::dtype::f16 ? f16_to_float(bits) : bf16_to_float(bits);
}

void pack_float_row_w8(const source_row& source, int columns, int row, std::byte* record) {
  decoded_block block;
  float values[block_columns];
  for (int first = 0; first < columns; first += block_columns, record += w8_form().record_bytes()) {
    for (int i = 0; i < block_columns; ++i) values[i] = float_at(source, first + i);
    quantise_w8(values, block);
    pack_block(quantised(model::dtype::q8_0), block, row, record);
  }
}

void pack_integers(const linear_plan& plan,
                   const linear_section& section,
                   int tile,
                   std::byte* to) {
  decoded_block block;
  for (int r = 0; r < tile_rows; ++r) {
    const source_row source = find_row(plan, tile * tile_rows + r);
    if (!source.part) continue;
    const quantised_type& type = quantised(source.part->type);
    if (type.values == 0) {
      pack_float_row_w8(source, plan.columns, r, to);
      continue;
    }
    const std::size_t records = static_cast<std::size_t>(type.values / block_columns);
    std::byte* record = to;
    for (int b = 0; b < plan.columns / type.values; ++b) {
      type.decode(block_at(source, b), block);
      pack_block(type, block, r, record);
      record += records * section.integers.record_bytes();
    }
  }
}

void copy_float_row(
    const source_row& source, int columns, int row, std::size_t size, std::byte* to) {
  for (int k = 0; k < columns; ++k) {
    const auto index = static_cast<std::size_t>(k) * tile_rows + static_cast<std::size_t>(row);
    std::memcpy(to + size * index, source.part->bytes.data() + size * element(source, k), size);
  }
}

void put_float(std::byte* to, int column, int row, float value) {
  const auto index = static_cast<std::size_t>(column) * tile_rows + static_cast<std::size_t>(row);
  std::memcpy(to + 4 * index, &value, sizeof value);
}

// Values of a quantised row as f32: one rounding each.
void widen_quantised_row(const source_row& source, int columns, int row, std::byte* to) {
  const quantised_type& type = quantised(source.part->type);
  decoded_block block;
  for (int b = 0; b < columns / type.values; ++b) {
    type.decode(block_at(source, b), block);
    for (int i = 0; i < type.values; ++i) {
      const int group = i / type.form.group;
      const double quant = block.quants[i] - type.form.offset;
      const double minimum = type.form.has_minima ? double{block.minima[group]} : 0.0;
      const double value = double{block.scales[group]} * quant + minimum;
      put_float(to, b * type.values + i, row, static_cast<float>(value));
    }
  }
}

void widen_half_row(const source_row& source, int columns, int row, std::byte* to) {
  for (int k = 0; k < columns; ++k) put_float(to, k, row, float_at(source, k));
}

void pack_floats(const linear_plan& plan, const linear_section& section, int tile, std::byte* to) {
  for (int r = 0; r < tile_rows; ++r) {
    const source_row source = find_row(plan, tile * tile_rows + r);
    if (!source.part) continue;
    const bool is_f32 = source.part->type == model::dtype::f32;
    if (quantised(source.part->type).values != 0) {
      widen_quantised_row(source, plan.columns, r, to);
    } else if (section.floats == float_form::f32 && !is_f32) {
      widen_half_row(source, plan.columns, r, to);
    } else {
      copy_float_row(source, plan.columns, r, is_f32 ? 4 : 2, to);
    }
  }
}

}  // namespace

void pack_tile(const linear_plan& plan, const linear_section& section, int tile, std::byte* to) {
  if (section.integer) {
    pack_integers(plan, section, tile, to);
  } else {
    pack_floats(plan, section, tile, to);
  }
}

}  // namespace foretoken::cpu
