// SPDX-License-Identifier: Apache-2.0
#pragma once
// y = W x in double precision, and file tensors made from random bytes. Written from the format's
// formulas, value by value; never calls cpu/.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "base/half.hpp"
#include "model/tensor.hpp"

namespace foretoken::reference {

struct block_format {
  int values;
  std::size_t bytes;
};
inline block_format format_of(model::dtype type) {
  switch (type) {
    case model::dtype::f32: return {1, 4};
    case model::dtype::f16:
    case model::dtype::bf16: return {1, 2};
    case model::dtype::q4_0: return {32, 18};
    case model::dtype::q4_1: return {32, 20};
    case model::dtype::q5_0: return {32, 22};
    case model::dtype::q5_1: return {32, 24};
    case model::dtype::q8_0: return {32, 34};
    case model::dtype::q2_k: return {256, 84};
    case model::dtype::q3_k: return {256, 110};
    case model::dtype::q4_k: return {256, 144};
    case model::dtype::q5_k: return {256, 176};
    case model::dtype::q6_k: return {256, 210};
  }
  return {1, 4};
}

inline double half_value(const std::uint8_t* at) {
  return f16_to_float(static_cast<std::uint16_t>(at[0] | (at[1] << 8)));
}

// Scale (which = 0) or minimum (1) number g of q4_k and q5_k: 6 bits each in 12 bytes.
inline int packed_six(const std::uint8_t* s, int g, int which) {
  if (g < 4) return s[g + 4 * which] & 63;
  const int low = which == 0 ? s[g + 4] & 15 : s[g + 4] >> 4;
  return low | (s[g - 4 + 4 * which] >> 6 << 4);
}

inline int q3_scale(const std::uint8_t* s, int g) {
  const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
  return (low | (((s[8 + g % 4] >> (2 * (g / 4))) & 3) << 4)) - 32;
}

// Value i of a block.
inline double block_value(model::dtype type, const std::uint8_t* b, int i) {
  const int half = i / 128;  // K types: two halves of 128 values
  const int quarter = i % 128 / 32;
  const int l = i % 32;
  const auto nibble = [&](const std::uint8_t* q) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; };
  const auto fifth = [&](const std::uint8_t* q) { return (q[i / 8] >> (i % 8) & 1) << 4; };
  switch (type) {
    case model::dtype::f32: {
      float value;
      std::memcpy(&value, b, 4);
      return value;
    }
    case model::dtype::f16: return half_value(b);
    case model::dtype::bf16: return bf16_to_float(static_cast<std::uint16_t>(b[0] | (b[1] << 8)));
    case model::dtype::q4_0: return half_value(b) * (nibble(b + 2) - 8);
    case model::dtype::q4_1: return half_value(b) * nibble(b + 4) + half_value(b + 2);
    case model::dtype::q5_0: return half_value(b) * ((nibble(b + 6) | fifth(b + 2)) - 16);
    case model::dtype::q5_1:
      return half_value(b) * (nibble(b + 8) | fifth(b + 4)) + half_value(b + 2);
    case model::dtype::q8_0: return half_value(b) * std::bit_cast<std::int8_t>(b[2 + i]);
    case model::dtype::q2_k: {
      const int quant = b[16 + 32 * half + l] >> (2 * quarter) & 3;
      return half_value(b + 80) * (b[i / 16] & 15) * quant - half_value(b + 82) * (b[i / 16] >> 4);
    }
    case model::dtype::q3_k: {
      const int two = b[32 + 32 * half + l] >> (2 * quarter) & 3;
      const int quant = two - ((b[l] >> (i / 32) & 1) != 0 ? 0 : 4);
      return half_value(b + 108) * q3_scale(b + 96, i / 16) * quant;
    }
    case model::dtype::q4_k:
    case model::dtype::q5_k: {
      const bool five = type == model::dtype::q5_k;
      const std::uint8_t byte = b[(five ? 48 : 16) + i / 64 * 32 + l];
      int quant = i % 64 < 32 ? byte & 15 : byte >> 4;
      if (five) quant |= (b[16 + l] >> (i / 32) & 1) << 4;
      return half_value(b) * packed_six(b + 4, i / 32, 0) * quant -
             half_value(b + 2) * packed_six(b + 4, i / 32, 1);
    }
    case model::dtype::q6_k: {
      const std::uint8_t byte = b[64 * half + 32 * (quarter % 2) + l];
      const int four = quarter < 2 ? byte & 15 : byte >> 4;
      const int quant = (four | ((b[128 + 32 * half + l] >> (2 * quarter) & 3) << 4)) - 32;
      return half_value(b + 208) * std::bit_cast<std::int8_t>(b[192 + i / 16]) * quant;
    }
  }
  return 0;
}

inline double value(const model::tensor& w, std::int64_t row, std::int64_t column) {
  const block_format format = format_of(w.type);
  const std::int64_t index = w.transposed ? column * w.rows + row : row * w.columns + column;
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(w.bytes.data());
  return block_value(w.type, bytes + static_cast<std::size_t>(index / format.values) * format.bytes,
                     static_cast<int>(index % format.values));
}

struct product {
  double value = 0;
  double magnitude = 0;  // sum of |w x|: what rounding errors are relative to
};
inline product dot(const model::tensor& w, std::int64_t row, const float* x) {
  product sum;
  for (std::int64_t k = 0; k < w.columns; ++k) {
    const double term = value(w, row, k) * x[k];
    sum.value += term;
    sum.magnitude += std::fabs(term);
  }
  return sum;
}

// Where the f16 scales stand in a block; random bytes there would be infinities.
inline std::vector<std::size_t> half_positions(model::dtype type) {
  switch (type) {
    case model::dtype::q4_0:
    case model::dtype::q5_0:
    case model::dtype::q8_0: return {0};
    case model::dtype::q4_1:
    case model::dtype::q5_1:
    case model::dtype::q4_k:
    case model::dtype::q5_k: return {0, 2};
    case model::dtype::q2_k: return {80, 82};
    case model::dtype::q3_k: return {108};
    case model::dtype::q6_k: return {208};
    default: return {};
  }
}

// A tensor that owns random bytes.
struct random_tensor {
  std::vector<std::byte> bytes;
  model::tensor view;

  random_tensor(model::dtype type,
                std::int64_t rows,
                std::int64_t columns,
                std::mt19937& random,
                int quant_byte = -1) {
    const block_format format = format_of(type);
    const auto blocks = static_cast<std::size_t>(rows * columns / format.values);
    bytes.resize(blocks * format.bytes);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(quant_byte >= 0 ? static_cast<unsigned>(quant_byte) : random());
    }
    for (std::size_t b = 0; b < blocks; ++b) {
      std::byte* const block = bytes.data() + b * format.bytes;
      const auto put = [&](std::size_t at, std::uint16_t half) {
        std::memcpy(block + at, &half, 2);
      };
      for (const std::size_t at : half_positions(type))
        put(at, float_to_f16(uniform(random) * 0.02f));
      const float plain = uniform(random);
      if (type == model::dtype::f32) std::memcpy(block, &plain, 4);
      if (type == model::dtype::f16) put(0, float_to_f16(plain));
      if (type == model::dtype::bf16) put(0, float_to_bf16(plain));
    }
    view = {"w", type, rows, columns, false, bytes};
  }
  random_tensor(const random_tensor&) = delete;
  random_tensor& operator=(const random_tensor&) = delete;
};

}  // namespace foretoken::reference
