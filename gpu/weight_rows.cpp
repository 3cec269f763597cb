// SPDX-License-Identifier: Apache-2.0
#include "gpu/weight_rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/assert.hpp"
#include "base/half.hpp"

namespace foretoken::gpu {
namespace {

constexpr int group_values = 32;

std::size_t at(std::int64_t n) {
  return static_cast<std::size_t>(n);
}

std::uint16_t half_at(const std::byte* from) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

// A group of 32 as unsigned codes with scale and minimum in f16: weight = scale * code + minimum.
struct coded_group {
  std::uint16_t scale = 0, minimum = 0;
  std::array<std::uint8_t, group_values> codes{};
};

// -shift * scale: exact, or out of the range of f16.
std::uint16_t shifted_minimum(std::uint16_t scale, int shift) {
  return float_to_f16(-static_cast<float>(shift) * f16_to_float(scale));
}

void low_nibbles(const std::byte* quants, coded_group& out) {
  for (std::size_t j = 0; j < 16; ++j) {
    const auto pair = std::to_integer<unsigned>(quants[j]);
    out.codes[j] = static_cast<std::uint8_t>(pair & 15);
    out.codes[j + 16] = static_cast<std::uint8_t>(pair >> 4);
  }
}

void high_bits(const std::byte* bits, coded_group& out) {
  std::uint32_t high;
  std::memcpy(&high, bits, sizeof high);
  for (std::size_t j = 0; j < group_values; ++j) {
    out.codes[j] = static_cast<std::uint8_t>(out.codes[j] | ((high >> j) & 1u) << 4);
  }
}

coded_group read_group(model::dtype type, const std::byte* in) {
  coded_group out;
  out.scale = half_at(in);
  switch (type) {
    case model::dtype::q4_0:
      low_nibbles(in + 2, out);
      out.minimum = shifted_minimum(out.scale, 8);
      break;
    case model::dtype::q4_1:
      low_nibbles(in + 4, out);
      out.minimum = half_at(in + 2);
      break;
    case model::dtype::q5_0:
      low_nibbles(in + 6, out);
      high_bits(in + 2, out);
      out.minimum = shifted_minimum(out.scale, 16);
      break;
    case model::dtype::q5_1:
      low_nibbles(in + 8, out);
      high_bits(in + 4, out);
      out.minimum = half_at(in + 2);
      break;
    default:  // q8_0
      for (std::size_t j = 0; j < group_values; ++j) {
        out.codes[j] = static_cast<std::uint8_t>(std::to_integer<unsigned>(in[2 + j]) ^ 128u);
      }
      out.minimum = shifted_minimum(out.scale, 128);
  }
  return out;
}

bool in_groups(model::dtype type) {
  return model::block_values(type) == group_values;
}

// Whether scale, minimum and every value of the group are finite in f16.
bool fits_f16(const coded_group& group, int code_max) {
  const auto finite = [](std::uint16_t bits) { return (bits & 0x7C00u) != 0x7C00u; };
  return finite(group.scale) && finite(group.minimum) &&
         finite(dequantised_f16(group.scale, group.minimum, 0)) &&
         finite(dequantised_f16(group.scale, group.minimum, code_max));
}

const std::byte* group_bytes(const model::tensor& part, std::int64_t row, std::int64_t group) {
  const std::int64_t groups = part.columns / group_values;
  return part.bytes.data() + at(row * groups + group) * model::block_bytes(part.type);
}

int code_max_of(model::dtype type) {
  switch (type) {
    case model::dtype::q4_0:
    case model::dtype::q4_1: return 15;
    case model::dtype::q5_0:
    case model::dtype::q5_1: return 31;
    default: return 255;
  }
}

bool row_fits(const model::tensor& part, std::int64_t row) {
  for (std::int64_t g = 0; g < part.columns / group_values; ++g) {
    const coded_group group = read_group(part.type, group_bytes(part, row, g));
    if (!fits_f16(group, code_max_of(part.type))) return false;
  }
  return true;
}

void grouped_row(const model::tensor& part, std::int64_t row, std::uint16_t* out) {
  for (std::int64_t g = 0; g < part.columns / group_values; ++g, out += group_values) {
    const coded_group group = read_group(part.type, group_bytes(part, row, g));
    if (code_max_of(part.type) > 15) {
      for (std::size_t j = 0; j < group_values; ++j) {
        out[j] = dequantised_f16(group.scale, group.minimum, group.codes[j]);
      }
      continue;
    }
    std::array<std::uint16_t, 16> values{};
    for (std::size_t c = 0; c < values.size(); ++c) {
      values[c] = dequantised_f16(group.scale, group.minimum, static_cast<int>(c));
    }
    for (std::size_t j = 0; j < group_values; ++j) out[j] = values[group.codes[j]];
  }
}

// The power of two by which a row is divided before it is rounded to f16: 1 unless its largest
// value would overflow, or be so small that most of the row were subnormal.
float scale_of_row(const std::vector<float>& row) {
  float largest = 0;
  for (const float value : row) largest = std::max(largest, std::fabs(value));
  if (largest == 0 || !std::isfinite(largest)) return 1;
  if (largest <= 32768.0f && largest >= 0x1p-6f) return 1;
  return std::ldexp(1.0f, std::ilogb(largest));
}

// One row's codes, scales and minima, each of the row's length.
void read_row(const model::tensor& part,
              std::int64_t row,
              std::uint8_t* codes,
              std::uint16_t* scale,
              std::uint16_t* minimum) {
  for (std::int64_t g = 0; g < part.columns / group_values; ++g, codes += group_values) {
    const coded_group group = read_group(part.type, group_bytes(part, row, g));
    std::ranges::copy(group.codes, codes);
    *scale++ = group.scale;
    *minimum++ = group.minimum;
  }
}

void spread(const matrix_source& matrix, const std::uint16_t* from, std::uint16_t* to) {
  for (int g = 0; g < matrix.groups; ++g) {
    std::copy_n(from + g * matrix.from, matrix.from, to + g * matrix.to);
  }
}

}  // namespace

matrix_source plain_source(const model::tensor& part) {
  matrix_source out;
  const row_order order = plain_order(static_cast<int>(part.rows));
  for (const std::int32_t row : order) {
    out.rows.push_back(row < 0 ? matrix_source::row{} : matrix_source::row{&part, row});
  }
  out.from = out.to = static_cast<int>(part.columns);
  return out;
}

matrix_source qkv_source(const model::tensor& q,
                         const model::tensor& k,
                         const model::tensor& v,
                         const model::hyperparameters& file,
                         const model::hyperparameters& padded,
                         int pairs) {
  const int pairs_padded = (pairs + 7) / 8 * 8;
  // Place d of a logical head -> place of the file's head, -1 = zeros.
  const auto place_of = [&](int d, bool rotated) {
    if (!rotated || pairs == 0 || pairs == pairs_padded) return d < file.head_dim ? d : -1;
    if (d >= 2 * pairs_padded) {
      const int rest = d - 2 * pairs_padded + 2 * pairs;
      return rest < file.head_dim ? rest : -1;
    }
    if (file.rope_neighbours) return d < 2 * pairs ? d : -1;
    const int i = d % pairs_padded;
    return i < pairs ? i + d / pairs_padded * pairs : -1;
  };
  matrix_source out;
  out.from = out.to = file.width;
  const row_order order =
      qkv_order(file.heads, file.kv_heads, padded.head_dim, pairs_padded, file.rope_neighbours);
  for (const std::int32_t logical : order) {
    const int head = logical / padded.head_dim;
    const int place = place_of(logical % padded.head_dim, head < file.heads + file.kv_heads);
    const bool is_q = head < file.heads;
    const bool is_k = !is_q && head < file.heads + file.kv_heads;
    const int within = is_q ? head : is_k ? head - file.heads : head - file.heads - file.kv_heads;
    const model::tensor& part = is_q ? q : is_k ? k : v;
    out.rows.push_back(place < 0 ? matrix_source::row{}
                                 : matrix_source::row{&part, within * file.head_dim + place});
  }
  return out;
}

matrix_source gate_up_source(const model::tensor& gate, const model::tensor& up, int ffn) {
  matrix_source out;
  out.from = out.to = static_cast<int>(up.columns);
  for (const std::int32_t logical : gate_up_order(ffn)) {
    const bool is_up = logical >= ffn;
    const std::int64_t row = is_up ? logical - ffn : logical;
    out.rows.push_back(logical < 0 || row >= up.rows
                           ? matrix_source::row{}
                           : matrix_source::row{is_up ? &up : &gate, row});
  }
  return out;
}

std::vector<float> ordered_bias(const matrix_source& matrix,
                                const model::tensor& part,
                                const model::tensor& of,
                                std::vector<float> into) {
  if (part.empty()) return into;
  into.resize(matrix.rows.size(), 0.0f);
  std::vector<float> values(at(part.rows * part.columns));
  model::dequantise(part, 0, part.rows, values.data());
  for (std::size_t i = 0; i < into.size(); ++i) {
    if (matrix.rows[i].part == &of) into[i] = values[at(matrix.rows[i].index)];
  }
  return into;
}

weight_form kept_form(const matrix_source& matrix) {
  if (matrix.from != matrix.to || matrix.to % group_values != 0) return weight_form::f16;
  int code_max = 0;
  for (const auto& row : matrix.rows) {
    if (row.part == nullptr) continue;
    if (!in_groups(row.part->type) || !row_fits(*row.part, row.index)) return weight_form::f16;
    code_max = std::max(code_max, code_max_of(row.part->type));
  }
  return code_max <= 15 ? weight_form::w4 : weight_form::w8;
}

coded_rows read_codes(const model::tensor& part) {
  const std::size_t groups = at(part.columns / group_values);
  coded_rows out;
  out.codes.resize(at(part.rows) * at(part.columns));
  out.scale.resize(at(part.rows) * groups);
  out.minimum.resize(out.scale.size());
  for (std::int64_t row = 0; row < part.rows; ++row) {
    read_row(part, row, out.codes.data() + at(row) * at(part.columns),
             out.scale.data() + at(row) * groups, out.minimum.data() + at(row) * groups);
  }
  return out;
}

void pack_rows_f16(
    const matrix_source& matrix, int first, int count, std::byte* codes, float* row_scale) {
  const int columns = matrix.columns();
  std::vector<std::uint16_t> values(at(count) * at(columns));
  std::vector<std::uint16_t> row(at(matrix.groups) * at(matrix.from));
  std::vector<float> wide(row.size());
  for (int r = 0; r < count; ++r) {
    row_scale[r] = 1;
    const auto& [part, index] = matrix.rows[at(first + r)];
    if (part == nullptr) continue;
    if (in_groups(part->type) && row_fits(*part, index)) {
      grouped_row(*part, index, row.data());
    } else {
      model::dequantise(*part, index, 1, wide.data());
      row_scale[r] = scale_of_row(wide);
      for (std::size_t i = 0; i < row.size(); ++i) row[i] = float_to_f16(wide[i] / row_scale[r]);
    }
    spread(matrix, row.data(), values.data() + at(r) * at(columns));
  }
  pack_f16(values, columns, plain_order(count), codes);
}

void pack_rows_kept(const matrix_source& matrix,
                    weight_form form,
                    int first,
                    int count,
                    std::byte* codes,
                    std::uint32_t* scales) {
  const int columns = matrix.columns();
  const std::size_t groups = at(columns / group_values);
  std::vector<std::uint8_t> values(at(count) * at(columns));
  std::vector<std::uint16_t> scale(at(count) * groups), minimum(at(count) * groups);
  for (int r = 0; r < count; ++r) {
    const auto& [part, index] = matrix.rows[at(first + r)];
    if (part == nullptr) continue;
    read_row(*part, index, values.data() + at(r) * at(columns), scale.data() + at(r) * groups,
             minimum.data() + at(r) * groups);
  }
  pack_quantised(form, values, scale, minimum, columns, plain_order(count), codes, scales);
}

}  // namespace foretoken::gpu
