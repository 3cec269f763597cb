// SPDX-License-Identifier: Apache-2.0
#pragma once
// A block of rows of activations and panels of outputs, whose sums and outputs stay in registers:
// what the AVX-512 matrix kernel does with one group of columns. Included by linear_avx512.cpp
// only.

#include <cstring>

#include "base/assert.hpp"
#include "cpu/linear_avx512.hpp"
#include "cpu/linear_stream.hpp"

namespace foretoken::cpu::avx512 {

FORETOKEN_AVX512_INLINE __m512i load_bytes(const void* from) {
  return _mm512_loadu_si512(from);
}

FORETOKEN_AVX512_INLINE __m512i broadcast_quad(const std::byte* q) {
  int quad;
  std::memcpy(&quad, q, sizeof quad);
  return _mm512_set1_epi32(quad);
}

// Rows of activations that pass over a tile together.
template <int Planes, int Rows>
struct row_block {
  static constexpr std::size_t record_bytes = sizeof(block_terms) + Planes * block_columns;
  const std::byte* record;  // of the first row and block
  std::size_t stride;       // bytes from one row to the next
  std::size_t at;           // block number of the first row
  std::size_t at_stride;

  row_block(const activations::storage& x, int first_row, int first_block) {
    at_stride = x.blocks;
    stride = x.blocks * record_bytes;
    at = x.block(first_row) + static_cast<std::size_t>(first_block);
    record = x.records + at * record_bytes;
  }
  FORETOKEN_AVX512_INLINE void next() {
    record += record_bytes;
    ++at;
  }
  FORETOKEN_AVX512_INLINE const block_terms& terms(int m) const {
    return *reinterpret_cast<const block_terms*>(record + static_cast<std::size_t>(m) * stride);
  }
  // What sums of line v begin with: a row's planes are neighbouring lines.
  FORETOKEN_AVX512_INLINE const std::int32_t& start(int v) const {
    return v % Planes == 0 ? terms(v / Planes).start : terms(v / Planes).second;
  }
  FORETOKEN_AVX512_INLINE std::size_t block(int m) const {
    return at + static_cast<std::size_t>(m) * at_stride;
  }
  // Four columns of line v.
  FORETOKEN_AVX512_INLINE const std::byte* quad(int v, int column) const {
    return record + static_cast<std::size_t>(v / Planes) * stride + sizeof(block_terms) +
           v % Planes * block_columns + column;
  }
};

// The registers of a block of rows and panels: integer sums of a group, outputs so far.
template <int Planes, int Rows, int Panels>
struct block_sums {
  static constexpr int lines = Planes * Rows;
  __m512i sums[lines][Panels];
  __m512 y[Rows][Panels];

  FORETOKEN_AVX512_INLINE void multiply(int panel, __m512i weights, const __m512i (&x)[lines]) {
#pragma GCC unroll 4
    for (int v = 0; v < lines; ++v) {
      sums[v][panel] = _mm512_dpbusd_epi32(sums[v][panel], weights, x[v]);
    }
  }
};

template <int Planes, int Rows>
FORETOKEN_AVX512_INLINE void load_quads(const row_block<Planes, Rows>& rows,
                                        int column,
                                        __m512i (&x)[Planes * Rows]) {
#pragma GCC unroll 4
  for (int v = 0; v < Planes * Rows; ++v) x[v] = broadcast_quad(rows.quad(v, column));
}

// Which of a block's offset_starts a type's groups begin with; types with minima have no offset.
struct group_starts {
  int first = 0;
  int step = 0;  // to the second group of 16 columns
};

inline group_starts start_of(int offset) noexcept {
  switch (offset) {
    case 8: return {0, 0};
    case 16: return {1, 0};
    case 128: return {2, 0};
    case 4: return {4, 1};
    case 32: return {6, 1};
    default: FORETOKEN_ASSERT(offset == 0); return {};
  }
}

template <bool Offset, int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void begin_sums(const activations::storage& x,
                                        const row_block<Planes, Rows>& rows,
                                        int start,
                                        block_sums<Planes, Rows, Panels>& block) {
#pragma GCC unroll 4
  for (int v = 0; v < Planes * Rows; ++v) {
    const std::size_t at = rows.block(v / Planes) * Planes + v % Planes;
    const std::int32_t from =
        Offset ? x.offset_starts[8 * at + static_cast<std::size_t>(start)] : rows.start(v);
    const __m512i first = _mm512_set1_epi32(from);
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) block.sums[v][p] = first;
  }
}

FORETOKEN_AVX512_INLINE __m512 above(__m512i sum, std::int32_t start) {
  return _mm512_sub_ps(_mm512_castsi512_ps(sum), _mm512_castsi512_ps(_mm512_set1_epi32(start)));
}

// The sum of row m, times the power of two in its scale: what the bits of its planes, read as
// floats, are above their starts. Exact but for one rounding of an 8-bit type's.
template <int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE __m512 powered_sum(const block_sums<Planes, Rows, Panels>& block,
                                           const block_terms& terms,
                                           int m,
                                           int panel) {
  const __m512 high = above(block.sums[m * Planes][panel], terms.start);
  if constexpr (Planes == 1) return high;
  return _mm512_add_ps(high, above(block.sums[m * Planes + Planes - 1][panel], terms.second));
}

// Adds the products of one group of columns; `quants` are the group's, from the first panel on.
template <int Group, int Planes, int Rows, int Panels, class Ahead>
FORETOKEN_AVX512_INLINE void multiply_bytes(const std::byte* quants,
                                            const row_block<Planes, Rows>& rows,
                                            int first_column,
                                            Ahead& ahead,
                                            block_sums<Planes, Rows, Panels>& block) {
#pragma GCC unroll 8
  for (int step = 0; step < Group / 4; ++step) {
    __m512i x[Planes * Rows];
    load_quads(rows, first_column + 4 * step, x);
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      ahead.next();
      block.multiply(p, load_bytes(quants + (step * panels + p) * 64), x);
    }
  }
}

template <int Group, int Planes, int Rows, int Panels, class Ahead>
FORETOKEN_AVX512_INLINE void multiply_nibbles(const std::byte* quants,
                                              const row_block<Planes, Rows>& rows,
                                              int first_column,
                                              Ahead& ahead,
                                              block_sums<Planes, Rows, Panels>& block) {
  const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (int step = 0; step < Group / 8; ++step) {
    __m512i low[Planes * Rows];
    __m512i high[Planes * Rows];
    load_quads(rows, first_column + 8 * step, low);
    load_quads(rows, first_column + 8 * step + 4, high);
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      ahead.next();
      const __m512i both = load_bytes(quants + (step * panels + p) * 64);
      block.multiply(p, _mm512_and_si512(both, mask), low);
      block.multiply(p, _mm512_and_si512(_mm512_srli_epi16(both, 4), mask), high);
    }
  }
}

}  // namespace foretoken::cpu::avx512
