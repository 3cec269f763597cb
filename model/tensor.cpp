// SPDX-License-Identifier: Apache-2.0
#include "model/tensor.hpp"

#include <cstring>

#include "base/assert.hpp"
#include "base/half.hpp"

namespace foretoken::model {
namespace {

struct dtype_facts {
  const char* name;
  int values;
  std::size_t bytes;
};

constexpr std::array<dtype_facts, 13> facts{{{"F32", 1, 4},
                                             {"F16", 1, 2},
                                             {"BF16", 1, 2},
                                             {"Q4_0", 32, 18},
                                             {"Q4_1", 32, 20},
                                             {"Q5_0", 32, 22},
                                             {"Q5_1", 32, 24},
                                             {"Q8_0", 32, 34},
                                             {"Q2_K", 256, 84},
                                             {"Q3_K", 256, 110},
                                             {"Q4_K", 256, 144},
                                             {"Q5_K", 256, 176},
                                             {"Q6_K", 256, 210}}};

const dtype_facts& facts_of(dtype type) noexcept {
  return facts[static_cast<std::size_t>(type)];
}

template <class T>
T load(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
float half_at(const std::byte* at) noexcept {
  return f16_to_float(load<std::uint16_t>(at));
}
int byte_at(const std::byte* at, int i) noexcept {
  return std::to_integer<int>(at[i]);
}
int signed_at(const std::byte* at, int i) noexcept {
  return load<std::int8_t>(at + i);
}

// Every product below has at most 24 significant bits, so it is exact in float32; the addition of
// the minimum is the only rounding.
void q4_block(const std::byte* in, bool with_min, float* out) noexcept {
  const float scale = half_at(in);
  const float low = with_min ? half_at(in + 2) : 0.0f;
  const int shift = with_min ? 0 : 8;
  const std::byte* quants = in + (with_min ? 4 : 2);
  for (int j = 0; j < 16; ++j) {
    const int pair = byte_at(quants, j);
    out[j] = static_cast<float>((pair & 15) - shift) * scale + low;
    out[j + 16] = static_cast<float>((pair >> 4) - shift) * scale + low;
  }
}

void q5_block(const std::byte* in, bool with_min, float* out) noexcept {
  const float scale = half_at(in);
  const float low = with_min ? half_at(in + 2) : 0.0f;
  const int shift = with_min ? 0 : 16;
  const std::byte* rest = in + (with_min ? 4 : 2);
  const auto high = load<std::uint32_t>(rest);
  const std::byte* quants = rest + 4;
  for (int j = 0; j < 16; ++j) {
    const int pair = byte_at(quants, j);
    const int first = (pair & 15) | (static_cast<int>((high >> j) & 1u) << 4);
    const int second = (pair >> 4) | (static_cast<int>((high >> (j + 16)) & 1u) << 4);
    out[j] = static_cast<float>(first - shift) * scale + low;
    out[j + 16] = static_cast<float>(second - shift) * scale + low;
  }
}

void q8_0_block(const std::byte* in, float* out) noexcept {
  const float scale = half_at(in);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(signed_at(in + 2, j)) * scale;
}

// 16 groups of 16: a byte holds the group's 4-bit scale (low) and 4-bit minimum (high).
void q2_k_block(const std::byte* in, float* out) noexcept {
  const std::byte* quants = in + 16;
  const float scale = half_at(in + 80);
  const float low = half_at(in + 82);
  for (int group = 0; group < 16; ++group) {
    const int packed = byte_at(in, group);
    const float step = scale * static_cast<float>(packed & 15);
    const float base = low * static_cast<float>(packed >> 4);
    const std::ptrdiff_t half = group / 8, odd = group % 2;
    const int shift = 2 * ((group % 8) / 2);
    const std::byte* from = quants + 32 * half + 16 * odd;
    for (int l = 0; l < 16; ++l) {
      *out++ = step * static_cast<float>((byte_at(from, l) >> shift) & 3) - base;
    }
  }
}

// 6-bit scales of 16 groups in 12 bytes: low nibbles in the first 8, high pairs in the last 4.
int q3_k_scale(const std::byte* scales, int group) noexcept {
  const int low = group < 8 ? byte_at(scales, group) & 15 : byte_at(scales, group - 8) >> 4;
  const int high = (byte_at(scales, 8 + group % 4) >> (2 * (group / 4))) & 3;
  return (low | (high << 4)) - 32;
}

void q3_k_block(const std::byte* in, float* out) noexcept {
  const std::byte* quants = in + 32;
  const float scale = half_at(in + 108);
  for (int group = 0; group < 16; ++group) {
    const float step = scale * static_cast<float>(q3_k_scale(in + 96, group));
    const std::ptrdiff_t half = group / 8, odd = group % 2, offset = 16 * odd;
    const int shift = 2 * ((group % 8) / 2);
    for (int l = 0; l < 16; ++l) {
      const int low = (byte_at(quants + 32 * half + offset, l) >> shift) & 3;
      const int high = (byte_at(in + offset, l) >> (group / 2)) & 1;
      *out++ = step * static_cast<float>(low - (high != 0 ? 0 : 4));
    }
  }
}

struct scale_and_min {
  float scale, low;
};
// 6-bit scale and minimum of 8 groups in 12 bytes (Q4_K and Q5_K).
scale_and_min k_scale(const std::byte* packed, int group) noexcept {
  if (group < 4) {
    return {static_cast<float>(byte_at(packed, group) & 63),
            static_cast<float>(byte_at(packed, group + 4) & 63)};
  }
  const int both = byte_at(packed, group + 4);
  return {static_cast<float>((both & 15) | ((byte_at(packed, group - 4) >> 6) << 4)),
          static_cast<float>((both >> 4) | ((byte_at(packed, group) >> 6) << 4))};
}

void q45_k_block(const std::byte* in, bool five, float* out) noexcept {
  const float scale = half_at(in), low = half_at(in + 2);
  const std::byte* high = in + 16;
  const std::byte* quants = in + (five ? 48 : 16);
  for (int group = 0; group < 8; ++group) {
    const auto [group_scale, group_min] = k_scale(in + 4, group);
    const float step = scale * group_scale, base = low * group_min;
    const std::ptrdiff_t pair = group / 2;
    for (int l = 0; l < 32; ++l) {
      int quant = (byte_at(quants + 32 * pair, l) >> (4 * (group % 2))) & 15;
      if (five) quant |= ((byte_at(high, l) >> group) & 1) << 4;
      *out++ = step * static_cast<float>(quant) - base;
    }
  }
}

void q6_k_block(const std::byte* in, float* out) noexcept {
  const std::byte* scales = in + 192;
  const float scale = half_at(in + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = (i % 128) / 32, l = i % 32;
    const int low_byte = byte_at(in, 64 * half + 32 * (quarter % 2) + l);
    const int low = quarter < 2 ? low_byte & 15 : low_byte >> 4;
    const int high = (byte_at(in + 128, 32 * half + l) >> (2 * quarter)) & 3;
    const float step = scale * static_cast<float>(signed_at(scales, i / 16));
    out[i] = step * static_cast<float>((low | (high << 4)) - 32);
  }
}

void dequantise_block(dtype type, const std::byte* in, float* out) noexcept {
  switch (type) {
    case dtype::f32: *out = load<float>(in); return;
    case dtype::f16: *out = half_at(in); return;
    case dtype::bf16: *out = bf16_to_float(load<std::uint16_t>(in)); return;
    case dtype::q4_0: return q4_block(in, false, out);
    case dtype::q4_1: return q4_block(in, true, out);
    case dtype::q5_0: return q5_block(in, false, out);
    case dtype::q5_1: return q5_block(in, true, out);
    case dtype::q8_0: return q8_0_block(in, out);
    case dtype::q2_k: return q2_k_block(in, out);
    case dtype::q3_k: return q3_k_block(in, out);
    case dtype::q4_k: return q45_k_block(in, false, out);
    case dtype::q5_k: return q45_k_block(in, true, out);
    case dtype::q6_k: return q6_k_block(in, out);
  }
}

}  // namespace

const char* dtype_name(dtype type) noexcept {
  return facts_of(type).name;
}
int block_values(dtype type) noexcept {
  return facts_of(type).values;
}
std::size_t block_bytes(dtype type) noexcept {
  return facts_of(type).bytes;
}

void dequantise(const tensor& source, std::int64_t first, std::int64_t count, float* out) {
  FORETOKEN_ASSERT(first >= 0 && count >= 0 && count <= source.rows - first);
  const auto [name, values, bytes] = facts_of(source.type);
  if (source.transposed) {
    for (std::int64_t row = first; row < first + count; ++row) {
      for (std::int64_t column = 0; column < source.columns; ++column) {
        const auto at = static_cast<std::size_t>(column * source.rows + row);
        dequantise_block(source.type, source.bytes.data() + at * bytes, out++);
      }
    }
    return;
  }
  const auto row_blocks = static_cast<std::size_t>(source.columns / values);
  const std::byte* in = source.bytes.data() + static_cast<std::size_t>(first) * row_blocks * bytes;
  const std::size_t blocks = static_cast<std::size_t>(count) * row_blocks;
  if (source.type == dtype::f32 && blocks != 0) {
    std::memcpy(out, in, blocks * sizeof(float));
    return;
  }
  for (std::size_t i = 0; i < blocks; ++i, in += bytes, out += values) {
    dequantise_block(source.type, in, out);
  }
}

}  // namespace foretoken::model
