// SPDX-License-Identifier: Apache-2.0
#pragma once
// Records turned into 16-bit weights and float scales, in scratch that stays in the first-level
// cache while all rows of x pass over it: for paths without byte multiply-adds. Written once in
// plain C++; each instruction set's file inlines it into functions of its own target, where the
// compiler vectorises it.

#include <cstring>

#include "base/inline.hpp"
#include "cpu/linear_kernels.hpp"

namespace foretoken::cpu {

constexpr int chunk_blocks = 4;
constexpr int pair_words = 2 * tile_rows;  // one pair of columns of a tile

struct alignas(64) integer_chunk {
  std::int16_t weights[chunk_blocks][block_columns / 2][pair_words];
  float scales[chunk_blocks][2][tile_rows];
  float minima[chunk_blocks][2][tile_rows];
};

// Bytes of two neighbouring columns, in the low bytes of two words, minus the offset. `less` is the
// offset in both words; the high bits keep one word from borrowing of the other.
FORETOKEN_INLINE std::uint32_t minus_offset(std::uint32_t pair, std::uint32_t less) {
  return ((pair | 0x80008000u) - less) ^ 0x80008000u;
}

// Four columns of 64 rows, `shift` bits up in each byte, as two pairs.
FORETOKEN_INLINE void unpack_step(const std::uint32_t* quads,
                                  int shift,
                                  std::uint32_t mask,
                                  std::uint32_t less,
                                  std::int16_t* out) {
  std::uint32_t pairs[tile_rows];
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < tile_rows; ++i) {
      const std::uint32_t quad = (quads[i] >> shift) & mask;
      const std::uint32_t two = half == 0 ? quad : quad >> 16;
      pairs[i] = minus_offset((two & 0xFFu) | ((two & 0xFF00u) << 8), less);
    }
    std::memcpy(out + half * pair_words, pairs, sizeof pairs);
  }
}

// Bits: of a quant; a step of a record is four bytes a row, and 32 columns are as many steps as
// bits.
template <int Bits>
FORETOKEN_INLINE void unpack_quants(const std::byte* record, int offset, std::int16_t* out) {
  constexpr std::uint32_t mask = Bits == 8 ? 0xFFFFFFFFu : 0x0F0F0F0Fu;
  const std::uint32_t less = static_cast<std::uint32_t>(offset) * 0x10001u;
  for (int step = 0; step < Bits; ++step) {
    std::uint32_t quads[tile_rows];
    std::memcpy(quads, record + step * tile_rows * 4, sizeof quads);
    for (int shift = 0; shift < 8; shift += Bits, out += 2 * pair_words) {
      unpack_step(quads, shift, mask, less, out);
    }
  }
}

// 64 f16 values to float, in the way of the instruction set.
using widen_function = void (*)(const std::byte* from, float* out);

FORETOKEN_INLINE void unpack_scales(const std::byte* from,
                                    const integer_form& form,
                                    widen_function widen,
                                    float (*out)[tile_rows]) {
  const std::size_t row_bytes = static_cast<std::size_t>(tile_rows * (form.wide_scales ? 4 : 2));
  for (int g = 0; g < form.groups(); ++g, from += row_bytes) {
    if (form.wide_scales) {
      std::memcpy(out[g], from, row_bytes);
    } else {
      widen(from, out[g]);
    }
  }
}

FORETOKEN_INLINE void unpack_chunk(const std::byte* records,
                                   int blocks,
                                   const integer_form& form,
                                   widen_function widen,
                                   integer_chunk& out) {
  for (int b = 0; b < blocks; ++b, records += form.record_bytes()) {
    if (form.bits == 4) {
      unpack_quants<4>(records, form.offset, out.weights[b][0]);
    } else {
      unpack_quants<8>(records, form.offset, out.weights[b][0]);
    }
    const std::byte* const scales = records + form.quant_bytes();
    unpack_scales(scales, form, widen, out.scales[b]);
    if (form.has_minima) {
      unpack_scales(scales + form.scale_bytes(), form, widen, out.minima[b]);
    }
  }
}

}  // namespace foretoken::cpu
