// SPDX-License-Identifier: Apache-2.0
#pragma once
// Records turned into 16-bit weights and float scales, in scratch that stays in the first-level
// cache while all rows of x pass over it. Written once in plain C++; each instruction set's file
// inlines it into functions of its own target, where the compiler vectorises it.

#include <cstring>

#include "cpu/linear_kernels.hpp"

namespace foretoken::cpu {

#define FORETOKEN_INLINE inline __attribute__((always_inline))

constexpr int chunk_blocks = 4;
constexpr int pair_words = 2 * tile_rows;  // one pair of columns of a tile

struct alignas(64) integer_chunk {
  std::int16_t weights[chunk_blocks][block_columns / 2][pair_words];
  float scales[chunk_blocks][2][tile_rows];
  float minima[chunk_blocks][2][tile_rows];
};

// Bits: of a quant; a step of a record is pair_words words of 16 / Bits columns each.
template <int Bits>
FORETOKEN_INLINE void unpack_quants(const std::byte* record, int offset, std::int16_t* out) {
  constexpr int per_word = 16 / Bits;
  constexpr unsigned mask = (1u << Bits) - 1u;
  const auto less = static_cast<std::uint16_t>(offset);
  for (int step = 0; step < block_columns / 2 / per_word; ++step) {
    std::uint16_t words[pair_words];
    std::memcpy(words, record + step * pair_words * 2, sizeof words);
    for (int j = 0; j < per_word; ++j) {
      std::int16_t* const to = out + (step * per_word + j) * pair_words;
      for (int i = 0; i < pair_words; ++i) {
        const auto quant = static_cast<std::uint16_t>((unsigned{words[i]} >> (j * Bits)) & mask);
        to[i] = static_cast<std::int16_t>(static_cast<std::uint16_t>(quant - less));
      }
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
