// SPDX-License-Identifier: Apache-2.0
#include "cpu/linear_decode.hpp"

#include <cstring>

#include "base/half.hpp"

namespace foretoken::cpu {
namespace {

float half_at(const std::uint8_t* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return f16_to_float(bits);
}

unsigned low(std::uint8_t byte) {
  return byte & 15u;
}
unsigned high(std::uint8_t byte) {
  return byte >> 4;
}
std::uint8_t narrow(unsigned quant) {
  return static_cast<std::uint8_t>(quant);
}

// Value i stands in the low nibble of byte i, value i + 16 in the high one.
void nibbles(const std::uint8_t* q, decoded_block& out) {
  for (int i = 0; i < 16; ++i) {
    out.quants[i] = narrow(low(q[i]));
    out.quants[i + 16] = narrow(high(q[i]));
  }
}

void fifth_bits(const std::uint8_t* at, decoded_block& out) {
  std::uint32_t bits;
  std::memcpy(&bits, at, sizeof bits);
  for (int i = 0; i < 32; ++i) {
    out.quants[i] = narrow(out.quants[i] | (((bits >> i) & 1u) << 4));
  }
}

void decode_q4_0(const std::uint8_t* block, decoded_block& out) {
  out.scales[0] = half_at(block);
  nibbles(block + 2, out);
}

void decode_q4_1(const std::uint8_t* block, decoded_block& out) {
  out.scales[0] = half_at(block);
  out.minima[0] = half_at(block + 2);
  nibbles(block + 4, out);
}

void decode_q5_0(const std::uint8_t* block, decoded_block& out) {
  out.scales[0] = half_at(block);
  nibbles(block + 6, out);
  fifth_bits(block + 2, out);
}

void decode_q5_1(const std::uint8_t* block, decoded_block& out) {
  out.scales[0] = half_at(block);
  out.minima[0] = half_at(block + 2);
  nibbles(block + 8, out);
  fifth_bits(block + 4, out);
}

void decode_q8_0(const std::uint8_t* block, decoded_block& out) {
  out.scales[0] = half_at(block);
  for (int i = 0; i < 32; ++i) out.quants[i] = narrow(block[2 + i] ^ 0x80u);  // signed + 128
}

// 2 bits a quant; 4 bits of scale and 4 of minimum per 16.
void decode_q2_k(const std::uint8_t* block, decoded_block& out) {
  const float scale = half_at(block + 80);
  const float minimum = half_at(block + 82);
  for (int g = 0; g < 16; ++g) {
    out.scales[g] = scale * static_cast<float>(low(block[g]));
    out.minima[g] = -minimum * static_cast<float>(high(block[g]));
  }
  const std::uint8_t* const q = block + 16;
  for (int i = 0; i < 256; ++i) {
    out.quants[i] = narrow((unsigned{q[i / 128 * 32 + i % 32]} >> (i % 128 / 32 * 2)) & 3u);
  }
}

// 2 bits and a third apart; 6-bit scales with offset 32 per 16.
void decode_q3_k(const std::uint8_t* block, decoded_block& out) {
  const std::uint8_t* const third = block;
  const std::uint8_t* const q = block + 32;
  const std::uint8_t* const s = block + 96;
  const float scale = half_at(block + 108);
  for (int g = 0; g < 16; ++g) {
    const unsigned low_bits = g < 8 ? low(s[g]) : high(s[g - 8]);
    const unsigned high_bits = (static_cast<unsigned>(s[8 + g % 4]) >> (g / 4 * 2)) & 3u;
    out.scales[g] = scale * static_cast<float>(static_cast<int>(low_bits | (high_bits << 4)) - 32);
  }
  for (int i = 0; i < 256; ++i) {
    const unsigned two =
        (static_cast<unsigned>(q[i / 128 * 32 + i % 32]) >> (i % 128 / 32 * 2)) & 3u;
    out.quants[i] = narrow(two | (((static_cast<unsigned>(third[i % 32]) >> (i / 32) & 1u)) << 2));
  }
}

// The eight 6-bit scales and minima of q4_k and q5_k, in 12 bytes.
void six_bit_scales(const std::uint8_t* block, decoded_block& out) {
  const float scale = half_at(block);
  const float minimum = half_at(block + 2);
  const std::uint8_t* const s = block + 4;
  for (int g = 0; g < 8; ++g) {
    const unsigned a = g < 4 ? s[g] & 63u : low(s[g + 4]) | ((s[g - 4] >> 6u) << 4);
    const unsigned b = g < 4 ? s[g + 4] & 63u : high(s[g + 4]) | ((s[g] >> 6u) << 4);
    out.scales[g] = scale * static_cast<float>(a);
    out.minima[g] = -minimum * static_cast<float>(b);
  }
}

// 32 bytes hold 32 values in their low nibbles and the next 32 in their high ones.
void wide_nibbles(const std::uint8_t* q, decoded_block& out) {
  for (int i = 0; i < 256; ++i) {
    const std::uint8_t byte = q[i / 64 * 32 + i % 32];
    out.quants[i] = narrow(i % 64 < 32 ? low(byte) : high(byte));
  }
}

void decode_q4_k(const std::uint8_t* block, decoded_block& out) {
  six_bit_scales(block, out);
  wide_nibbles(block + 16, out);
}

void decode_q5_k(const std::uint8_t* block, decoded_block& out) {
  six_bit_scales(block, out);
  wide_nibbles(block + 48, out);
  const std::uint8_t* const fifth = block + 16;
  for (int i = 0; i < 256; ++i) {
    const unsigned bit = (static_cast<unsigned>(fifth[i % 32]) >> (i / 32)) & 1u;
    out.quants[i] = narrow(out.quants[i] | (bit << 4));
  }
}

// 4 low bits and 2 high bits; a signed 8-bit scale per 16; offset 32.
void decode_q6_k(const std::uint8_t* block, decoded_block& out) {
  const std::uint8_t* const q = block;
  const std::uint8_t* const upper = block + 128;
  const float scale = half_at(block + 208);
  for (int g = 0; g < 16; ++g) {
    std::int8_t s;
    std::memcpy(&s, block + 192 + g, 1);
    out.scales[g] = scale * static_cast<float>(s);
  }
  for (int i = 0; i < 256; ++i) {
    const int part = i % 128 / 32;  // 0, 1: low nibbles; 2, 3: high nibbles
    const std::uint8_t byte = q[i / 128 * 64 + part % 2 * 32 + i % 32];
    const unsigned two = (static_cast<unsigned>(upper[i / 128 * 32 + i % 32]) >> (part * 2)) & 3u;
    out.quants[i] = narrow((part < 2 ? low(byte) : high(byte)) | (two << 4));
  }
}

//                                                  bits group wide  minima offset
constexpr quantised_type none{};
constexpr quantised_type q4_0{32, 18, integer_form{4, 32, false, false, 8}, decode_q4_0};
constexpr quantised_type q4_1{32, 20, integer_form{4, 32, false, true, 0}, decode_q4_1};
constexpr quantised_type q5_0{32, 22, integer_form{8, 32, false, false, 16}, decode_q5_0};
constexpr quantised_type q5_1{32, 24, integer_form{8, 32, false, true, 0}, decode_q5_1};
constexpr quantised_type q8_0{32, 34, integer_form{8, 32, false, false, 128}, decode_q8_0};
constexpr quantised_type q2_k{256, 84, integer_form{4, 16, true, true, 0}, decode_q2_k};
constexpr quantised_type q3_k{256, 110, integer_form{4, 16, true, false, 4}, decode_q3_k};
constexpr quantised_type q4_k{256, 144, integer_form{4, 32, true, true, 0}, decode_q4_k};
constexpr quantised_type q5_k{256, 176, integer_form{8, 32, true, true, 0}, decode_q5_k};
constexpr quantised_type q6_k{256, 210, integer_form{8, 16, true, false, 32}, decode_q6_k};

}  // namespace

const quantised_type& quantised(model::dtype type) noexcept {
  switch (type) {
    case model::dtype::q4_0: return q4_0;
    case model::dtype::q4_1: return q4_1;
    case model::dtype::q5_0: return q5_0;
    case model::dtype::q5_1: return q5_1;
    case model::dtype::q8_0: return q8_0;
    case model::dtype::q2_k: return q2_k;
    case model::dtype::q3_k: return q3_k;
    case model::dtype::q4_k: return q4_k;
    case model::dtype::q5_k: return q5_k;
    case model::dtype::q6_k: return q6_k;
    case model::dtype::f32:
    case model::dtype::f16:
    case model::dtype::bf16: return none;
  }
  return none;
}

}  // namespace foretoken::cpu
