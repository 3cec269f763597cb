// SPDX-License-Identifier: Apache-2.0
// Every storage type against its definition written out again in float64, bit by bit.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "base/half.hpp"
#include "model/tensor.hpp"

using namespace foretoken;
using namespace foretoken::model;

namespace {

// Reads numbers of a block by byte and bit position.
struct block_view {
  const std::uint8_t* bytes;
  double half(int at) const {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes + at, 2);
    return static_cast<double>(f16_to_float(bits));
  }
  int bits(int at, int shift, int count) const { return (bytes[at] >> shift) & ((1 << count) - 1); }
  int nibble(int at, int i, int half_length) const {  // i in [0, 2 * half_length)
    return i < half_length ? bits(at + i, 0, 4) : bits(at + i - half_length, 4, 4);
  }
  int bit_of_word(int at, int i) const { return bits(at + i / 8, i % 8, 1); }
  int signed_byte(int at) const { return static_cast<std::int8_t>(bytes[at]); }
};

// Scale and minimum of group g of Q4_K and Q5_K.
std::pair<int, int> six_bit_pair(const block_view& b, int g) {
  if (g < 4) return {b.bits(4 + g, 0, 6), b.bits(8 + g, 0, 6)};
  return {b.bits(8 + g, 0, 4) + 16 * b.bits(g, 6, 2),
          b.bits(8 + g, 4, 4) + 16 * b.bits(4 + g, 6, 2)};
}

double expected(dtype type, const block_view& b, int i) {
  switch (type) {
    case dtype::q4_0: return b.half(0) * (b.nibble(2, i, 16) - 8);
    case dtype::q4_1: return b.half(0) * b.nibble(4, i, 16) + b.half(2);
    case dtype::q5_0: return b.half(0) * (b.nibble(6, i, 16) + 16 * b.bit_of_word(2, i) - 16);
    case dtype::q5_1:
      return b.half(0) * (b.nibble(8, i, 16) + 16 * b.bit_of_word(4, i)) + b.half(2);
    case dtype::q8_0: return b.half(0) * b.signed_byte(2 + i);
    case dtype::q2_k: {
      const int quant = b.bits(16 + 32 * (i / 128) + i % 32, 2 * (i % 128 / 32), 2);
      return b.half(80) * b.bits(i / 16, 0, 4) * quant - b.half(82) * b.bits(i / 16, 4, 4);
    }
    case dtype::q3_k: {
      const int g = i / 16;
      const int low = g < 8 ? b.bits(96 + g, 0, 4) : b.bits(88 + g, 4, 4);
      const int scale = low + 16 * b.bits(104 + g % 4, 2 * (g / 4), 2) - 32;
      const int quant = b.bits(32 + 32 * (i / 128) + i % 32, 2 * (i % 128 / 32), 2) +
                        4 * b.bits(i % 32, i / 32, 1) - 4;
      return b.half(108) * scale * quant;
    }
    case dtype::q4_k: {
      const auto [scale, low] = six_bit_pair(b, i / 32);
      return b.half(0) * scale * b.bits(16 + 32 * (i / 64) + i % 32, 4 * (i % 64 / 32), 4) -
             b.half(2) * low;
    }
    case dtype::q5_k: {
      const auto [scale, low] = six_bit_pair(b, i / 32);
      const int quant = b.bits(48 + 32 * (i / 64) + i % 32, 4 * (i % 64 / 32), 4) +
                        16 * b.bits(16 + i % 32, i / 32, 1);
      return b.half(0) * scale * quant - b.half(2) * low;
    }
    case dtype::q6_k: {
      const int low = b.bits(64 * (i / 128) + i % 64, 4 * (i % 128 / 64), 4);
      const int high = b.bits(128 + 32 * (i / 128) + i % 32, 2 * (i % 128 / 32), 2);
      return b.half(208) * b.signed_byte(192 + i / 16) * (low + 16 * high - 32);
    }
    default: return std::nan("");
  }
}

constexpr dtype quantised[] = {dtype::q4_0, dtype::q4_1, dtype::q5_0, dtype::q5_1, dtype::q8_0,
                               dtype::q2_k, dtype::q3_k, dtype::q4_k, dtype::q5_k, dtype::q6_k};

// Bytes 0.. of each 16-bit float made small and finite, the rest random.
void make_halves_finite(dtype type, std::uint8_t* block) {
  const auto fix = [&](int at) {
    block[at + 1] = static_cast<std::uint8_t>(block[at + 1] & 0xBBu);
  };
  switch (type) {
    case dtype::q2_k: fix(80), fix(82); break;
    case dtype::q3_k: fix(108); break;
    case dtype::q6_k: fix(208); break;
    default: fix(0), fix(2); break;
  }
}

}  // namespace

TEST_CASE("dequantise: quantised types equal their definition, rounded once") {
  std::mt19937 random(3);
  for (const dtype type : quantised) {
    CAPTURE(dtype_name(type));
    constexpr int rows = 7, blocks = 5;
    const int values = block_values(type);
    const std::size_t size = block_bytes(type);
    std::vector<std::uint8_t> bytes(rows * blocks * size);
    for (auto& one : bytes) one = static_cast<std::uint8_t>(random());
    for (std::size_t b = 0; b < rows * blocks; ++b) make_halves_finite(type, &bytes[b * size]);
    const tensor source{"w", type, rows, blocks * values, false, std::as_bytes(std::span(bytes))};
    std::vector<float> out(static_cast<std::size_t>(5 * blocks * values));
    dequantise(source, 2, 5, out.data());  // a range of rows, not from the start
    int wrong = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t block = i / static_cast<std::size_t>(values) + 2 * blocks;
      const double want = expected(type, {&bytes[block * size]}, static_cast<int>(i) % values);
      if (out[i] != static_cast<float>(want)) ++wrong;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("dequantise: plain types, and transposed storage") {
  const std::vector<float> values{1.5f, -2.0f, 0.25f, 8.0f, -0.125f, 3.0f};
  std::vector<std::uint16_t> half, brain;
  for (const float v : values) half.push_back(float_to_f16(v)), brain.push_back(float_to_bf16(v));
  const std::span<const std::byte> stored[] = {std::as_bytes(std::span(values)),
                                               std::as_bytes(std::span(half)),
                                               std::as_bytes(std::span(brain))};
  for (const dtype type : {dtype::f32, dtype::f16, dtype::bf16}) {
    const auto bytes = stored[static_cast<int>(type)];
    std::vector<float> out(6);
    dequantise({"w", type, 2, 3, false, bytes}, 0, 2, out.data());
    CHECK(out == values);
    dequantise({"w", type, 3, 2, true, bytes}, 0, 3, out.data());
    CHECK(out == std::vector<float>{1.5f, 8.0f, -2.0f, -0.125f, 0.25f, 3.0f});
  }
}
