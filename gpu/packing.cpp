// SPDX-License-Identifier: Apache-2.0
#include "gpu/packing.hpp"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/assert.hpp"
#include "base/half.hpp"

namespace foretoken::gpu {
namespace {

std::size_t at(int n) {
  return static_cast<std::size_t>(n);
}

int whole_tiles(int rows) {
  return (rows + 15) / 16 * 16;
}

// Calls put(tile, step, lane, j, source row, column) for every value of every fragment; a row or
// column that is not there is -1.
template <class Put>
void each_value(const row_order& order, int columns, Put put) {
  FORETOKEN_ASSERT(order.size() % 16 == 0);
  const int steps = padded_columns(columns) / 16;
  for (int tile = 0; tile < static_cast<int>(order.size() / 16); ++tile) {
    for (int step = 0; step < steps; ++step) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int j = 0; j < 8; ++j) {
          const int row = lane / 4 + 8 * (j / 2 % 2);
          const int column = step * 16 + 2 * (lane % 4) + 8 * (j / 4) + j % 2;
          put(tile * steps + step, lane, j, order[at(tile * 16 + row)],
              column < columns ? column : -1);
        }
      }
    }
  }
}

}  // namespace

row_order plain_order(int rows) {
  row_order order(at(whole_tiles(rows)), -1);
  for (int i = 0; i < rows; ++i) order[at(i)] = i;
  return order;
}

row_order qkv_order(int heads, int kv_heads, int head_dim, int pairs, bool neighbours) {
  row_order order(at((heads + 2 * kv_heads) * head_dim));
  for (int i = 0; i < static_cast<int>(order.size()); ++i) order[at(i)] = i;
  for (int head = 0; head < heads + kv_heads; ++head) {
    for (int i = 0; i < pairs; ++i) {
      const int a = head * head_dim + i / 8 * 16 + i % 8;
      order[at(a)] = head * head_dim + (neighbours ? 2 * i : i);
      order[at(a + 8)] = head * head_dim + (neighbours ? 2 * i + 1 : i + pairs);
    }
  }
  return order;
}

row_order gate_up_order(int ffn) {
  row_order order(at(whole_tiles(2 * ffn)), -1);
  for (int j = 0; j < ffn; ++j) {
    order[at(j / 8 * 16 + j % 8)] = j;
    order[at(j / 8 * 16 + j % 8 + 8)] = ffn + j;
  }
  return order;
}

std::size_t packed_code_bytes(weight_form form, int rows, int columns) {
  const std::size_t values = at(whole_tiles(rows)) * at(padded_columns(columns));
  switch (form) {
    case weight_form::f16: return values * 2;
    case weight_form::w8: return values;
    case weight_form::w4: return values / 2;
  }
  return 0;
}

std::size_t packed_scale_bytes(weight_form form, int rows, int columns) {
  if (form == weight_form::f16) return 0;
  return at(whole_tiles(rows)) * at(padded_columns(columns)) / 32 * sizeof(std::uint32_t);
}

void pack_f16(std::span<const std::uint16_t> values,
              int columns,
              const row_order& order,
              std::byte* codes) {
  each_value(order, columns, [&](int fragment, int lane, int j, int row, int column) {
    const std::uint16_t value =
        row < 0 || column < 0 ? std::uint16_t{0} : values[at(row) * at(columns) + at(column)];
    std::memcpy(codes + (at(fragment) * 256 + at(lane * 8 + j)) * 2, &value, 2);
  });
}

void pack_quantised(weight_form form,
                    std::span<const std::uint8_t> values,
                    std::span<const std::uint16_t> scale,
                    std::span<const std::uint16_t> minimum,
                    int columns,
                    const row_order& order,
                    std::byte* codes,
                    std::uint32_t* scales) {
  FORETOKEN_ASSERT(columns % 32 == 0);
  const int groups = columns / 32;
  const int groups_padded = padded_columns(columns) / 32;
  std::memset(codes, 0, packed_code_bytes(form, static_cast<int>(order.size()), columns));
  each_value(order, columns, [&](int fragment, int lane, int j, int row, int column) {
    const unsigned code = row < 0 || column < 0 ? 0u : values[at(row) * at(columns) + at(column)];
    const std::size_t word = at(fragment) * 32 + at(lane);
    if (form == weight_form::w8) {
      codes[word * 8 + at(j)] = static_cast<std::byte>(code);
    } else {
      const int nibble = j / 2 + 4 * (j % 2);
      codes[word * 4 + at(nibble / 2)] |= static_cast<std::byte>(code << (4 * (nibble % 2)));
    }
  });
  for (std::size_t packed = 0; packed < order.size(); ++packed) {
    for (int g = 0; g < groups_padded; ++g) {
      std::uint32_t both = 0;
      if (order[packed] >= 0 && g < groups) {
        const std::size_t from = at(order[packed]) * at(groups) + at(g);
        both = scale[from] | static_cast<std::uint32_t>(minimum[from]) << 16;
      }
      scales[(packed / 16 * at(groups_padded) + at(g)) * 16 + packed % 16] = both;
    }
  }
}

// The double holds scale * code + minimum exactly (19 bits times 2^e plus 11 bits, at most 50
// apart). Rounding to f16 through float must not round twice: the float is made odd first.
std::uint16_t dequantised_f16(std::uint16_t scale, std::uint16_t minimum, int code) {
  const double exact =
      static_cast<double>(f16_to_float(scale)) * code + static_cast<double>(f16_to_float(minimum));
  const auto near = static_cast<float>(exact);
  auto bits = std::bit_cast<std::uint32_t>(near);
  if (static_cast<double>(near) != exact) {
    if (std::fabs(static_cast<double>(near)) > std::fabs(exact)) --bits;
    bits |= 1u;
  }
  return float_to_f16(std::bit_cast<float>(bits));
}

std::vector<float> ordered(std::span<const float> values, const row_order& order, float missing) {
  std::vector<float> out(order.size(), missing);
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (order[i] >= 0) out[i] = values[at(order[i])];
  }
  return out;
}

}  // namespace foretoken::gpu
