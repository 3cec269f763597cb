// SPDX-License-Identifier: Apache-2.0
// Integer weights with AVX-512 VNNI: y[m][n] = sum over groups g of 32 (or 16) columns of
//   scale[n][g] * x_scale[m][g] * (sum of w[n][k] * q[m][k]) + minimum[n][g] * x_sum[m][g].
//
// vpdpbusd adds four products of unsigned weights and signed activations to each of 16 outputs. An
// exact row is two planes of bytes, which are multiplied as two rows and joined as 256 * high +
// low.
//
// Blocks of four planes (four fast rows, two exact ones) x 64 outputs pass over the tile's records;
// nibbles are parted in registers. With one or two rows memory is the limit: 0.625 bytes a weight
// of q4_1. With more, the tile stays in the caches and the limit is arithmetic: per group a block
// of four planes and 16 outputs costs 32 vpdpbusd and, on the same ports, 4 multiplications by the
// row's scale, 4 multiply-adds of the scale and 4 of the minimum (half of these in exact). So at
// most 73 % of vpdpbusd's rate can be reached in fast and 84 % in exact with minima, 80 % and 89 %
// without; measured (Zen 4, one thread, q4_1, 1 to 128 rows): 67 and 81 %.
//
// Tried and dropped: parting eight records at a time into the first-level cache, for many rows.
// Parting runs on ports that vpdpbusd leaves free, and bytes double the loads: 61 % (fast) and 77 %
// (exact) at 128 rows. A whole copy of the weights as bytes was not built.

#if defined(__x86_64__)

#include "cpu/linear_avx512.hpp"

#include <algorithm>
#include <cstring>

#include "base/assert.hpp"

namespace foretoken::cpu {
namespace {

using avx512::panels;
using avx512::widen_halves;

// How far ahead of the arithmetic the stream is asked for.
constexpr std::size_t prefetch_bytes = 5120;
FORETOKEN_AVX512_INLINE __m512i load_bytes(const void* from) {
  return _mm512_loadu_si512(from);
}

FORETOKEN_AVX512_INLINE __m512i broadcast_quad(const std::int8_t* q) {
  int quad;
  std::memcpy(&quad, q, sizeof quad);
  return _mm512_set1_epi32(quad);
}

FORETOKEN_AVX512_INLINE void prefetch_record(const std::byte* from, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from) + prefetch_bytes + i, _MM_HINT_T0);
  }
}

FORETOKEN_AVX512_INLINE void put_quants(std::int8_t* q, __m512i first, __m512i second) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(first));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16), _mm512_cvtepi32_epi8(second));
}

// See quantise() in linear_portable.cpp: the same operations, 16 at a time.
FORETOKEN_AVX512 void quantise(const activations::storage& to, std::size_t at, const float* x) {
  std::int8_t* q = to.bytes + at * block_columns * static_cast<std::size_t>(to.planes);
  const __m512 x0 = _mm512_loadu_ps(x);
  const __m512 x1 = _mm512_loadu_ps(x + 16);
  const __m512i sign_off = _mm512_set1_epi32(0x7FFFFFFF);
  const __m512i largest = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x0), sign_off),
                                           _mm512_and_si512(_mm512_castps_si512(x1), sign_off));
  const std::uint32_t bits = _mm512_reduce_max_epu32(largest);
  const float magnitude = __builtin_bit_cast(float, bits);
  float scale = 0;
  __m512i q0 = _mm512_setzero_si512();
  __m512i q1 = q0;
  if (bits >= 0x7F800000u) {
    scale = __builtin_bit_cast(float, 0x7FC00000u);
  } else if (magnitude >= 1e-30f) {
    scale = magnitude / to.quant_max();
    const __m512 inverse = _mm512_set1_ps(to.quant_max() / magnitude);
    q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
    q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
  }
  if (to.planes == 2) {  // low in [-128, 127]
    const __m512i round = _mm512_set1_epi32(128);
    put_quants(q, _mm512_srai_epi32(_mm512_add_epi32(q0, round), 8),
               _mm512_srai_epi32(_mm512_add_epi32(q1, round), 8));
    q += block_columns;
  }
  put_quants(q, q0, q1);  // keeps the low bytes
  to.put_block(at, scale, _mm512_reduce_add_epi32(q0), _mm512_reduce_add_epi32(q1));
}

template <bool Wide>
FORETOKEN_AVX512_INLINE __m512 load_scales(const std::byte* scales, int vector) {
  if constexpr (Wide) return _mm512_loadu_ps(scales + 64 * vector);
  return widen_halves(scales + 32 * vector);
}

// Rows of activations that pass over a tile together.
template <int Planes, int Rows>
struct row_block {
  static constexpr int lines = Planes * Rows;
  const std::int8_t* q;  // of the first row and block
  std::size_t q_stride;  // bytes from one row to the next
  std::size_t at;        // block number of the first row
  std::size_t at_stride;

  row_block(const activations::storage& x, int first_row, int first_block) {
    constexpr auto block_bytes = static_cast<std::size_t>(Planes * block_columns);
    at_stride = x.blocks;
    q_stride = x.blocks * block_bytes;
    at = x.block(first_row) + static_cast<std::size_t>(first_block);
    q = x.bytes + at * block_bytes;
  }
  FORETOKEN_AVX512_INLINE void next() {
    q += Planes * block_columns;
    ++at;
  }
  FORETOKEN_AVX512_INLINE std::size_t block(int m) const {
    return at + static_cast<std::size_t>(m) * at_stride;
  }
  // Four columns of line v: a row's planes are neighbouring lines.
  FORETOKEN_AVX512_INLINE const std::int8_t* quad(int v, int column) const {
    return q + static_cast<std::size_t>(v / Planes) * q_stride + v % Planes * block_columns +
           column;
  }
};

template <int Lines>
FORETOKEN_AVX512_INLINE void multiply(__m512i (&sums)[Lines][panels],
                                      int panel,
                                      __m512i weights,
                                      const __m512i (&x)[Lines]) {
#pragma GCC unroll 4
  for (int v = 0; v < Lines; ++v) {
    sums[v][panel] = _mm512_dpbusd_epi32(sums[v][panel], weights, x[v]);
  }
}

template <int Planes, int Rows>
FORETOKEN_AVX512_INLINE void load_quads(const row_block<Planes, Rows>& rows,
                                        int column,
                                        __m512i (&x)[Planes * Rows]) {
#pragma GCC unroll 4
  for (int v = 0; v < Planes * Rows; ++v) x[v] = broadcast_quad(rows.quad(v, column));
}

// Sums begin at -offset * x_sum, in the low plane.
template <int Group, int Planes, int Rows>
FORETOKEN_AVX512_INLINE void begin_sums(const activations::storage& x,
                                        const row_block<Planes, Rows>& rows,
                                        int group,
                                        int offset,
                                        __m512i (&sums)[Planes * Rows][panels]) {
#pragma GCC unroll 4
  for (int v = 0; v < Planes * Rows; ++v) {
    int first = 0;
    if (offset != 0 && v % Planes == Planes - 1) {
      const std::int32_t* const s = x.int_sums + 2 * rows.block(v / Planes);
      first = -offset * (Group == 32 ? s[0] + s[1] : s[group]);
    }
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) sums[v][p] = _mm512_set1_epi32(first);
  }
}

// y = fma(sum, scale * x_scale, y), then the minimum: the order every kernel keeps.
template <int Group, bool Minima, int Planes, int Rows>
FORETOKEN_AVX512_INLINE void add_group(const activations::storage& x,
                                       const row_block<Planes, Rows>& rows,
                                       int group,
                                       int panel,
                                       __m512 scale,
                                       __m512 minimum,
                                       const __m512i (&sums)[Planes * Rows][panels],
                                       __m512 (&y)[Rows]) {
#pragma GCC unroll 4
  for (int m = 0; m < Rows; ++m) {
    const std::size_t at = rows.block(m);
    __m512i sum = sums[m * Planes][panel];
    if constexpr (Planes == 2) {
      sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), sums[m * Planes + 1][panel]);
    }
    const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[at]));
    y[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both, y[m]);
    if constexpr (Minima) {
      const float x_sum =
          Group == 32 ? x.sums[at] : x.half_sums[2 * at + static_cast<std::size_t>(group)];
      y[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x_sum), y[m]);
    }
  }
}

// Adds the products of one group of columns; `quants` are the group's.
template <int Group, int Planes, int Rows>
FORETOKEN_AVX512_INLINE void multiply_bytes(const std::byte* quants,
                                            const row_block<Planes, Rows>& rows,
                                            int first_column,
                                            __m512i (&sums)[Planes * Rows][panels]) {
#pragma GCC unroll 8
  for (int step = 0; step < Group / 4; ++step) {
    __m512i x[Planes * Rows];
    load_quads(rows, first_column + 4 * step, x);
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      multiply(sums, p, load_bytes(quants + (step * panels + p) * 64), x);
    }
  }
}

template <int Group, int Planes, int Rows>
FORETOKEN_AVX512_INLINE void multiply_nibbles(const std::byte* quants,
                                              const row_block<Planes, Rows>& rows,
                                              int first_column,
                                              __m512i (&sums)[Planes * Rows][panels]) {
  const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (int step = 0; step < Group / 8; ++step) {
    __m512i low[Planes * Rows];
    __m512i high[Planes * Rows];
    load_quads(rows, first_column + 8 * step, low);
    load_quads(rows, first_column + 8 * step + 4, high);
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      const __m512i both = load_bytes(quants + (step * panels + p) * 64);
      multiply(sums, p, _mm512_and_si512(both, mask), low);
      multiply(sums, p, _mm512_and_si512(_mm512_srli_epi16(both, 4), mask), high);
    }
  }
}

// Outputs of a block of rows between two groups: in memory, because the sums take the registers.
template <int Rows>
struct output_block {
  float* y;
  std::size_t stride;
  FORETOKEN_AVX512_INLINE void load(int panel, __m512 (&to)[Rows]) const {
#pragma GCC unroll 4
    for (int m = 0; m < Rows; ++m) to[m] = _mm512_loadu_ps(at(m, panel));
  }
  FORETOKEN_AVX512_INLINE void store(int panel, const __m512 (&from)[Rows]) const {
#pragma GCC unroll 4
    for (int m = 0; m < Rows; ++m) _mm512_storeu_ps(at(m, panel), from[m]);
  }
  FORETOKEN_AVX512_INLINE float* at(int m, int panel) const {
    return y + static_cast<std::size_t>(m) * stride + 16 * panel;
  }
};

template <int Bits, int Group, bool Wide, bool Minima, int Planes, int Rows>
FORETOKEN_AVX512 void stream_rows(const std::byte* record,
                                  int blocks,
                                  int offset,
                                  const activations::storage& x,
                                  int first_row,
                                  tile_output out_rows) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  constexpr std::size_t bytes = form.record_bytes();
  row_block<Planes, Rows> rows(x, first_row, 0);
  const output_block<Rows> out{out_rows.y + static_cast<std::size_t>(first_row) * out_rows.stride,
                               out_rows.stride};
  const __m512 zeros[Rows] = {};
  for (int p = 0; p < panels; ++p) out.store(p, zeros);
  for (int b = 0; b < blocks; ++b, record += bytes, rows.next()) {
    prefetch_record(record, bytes);
    const std::byte* const scales = record + form.quant_bytes();
    for (int g = 0; g < form.groups(); ++g) {
      const std::byte* const quants = record + g * Group * tile_rows * Bits / 8;
      __m512i sums[Planes * Rows][panels];
      begin_sums<Group>(x, rows, g, offset, sums);
      if constexpr (Bits == 4) {
        multiply_nibbles<Group>(quants, rows, g * Group, sums);
      } else {
        multiply_bytes<Group>(quants, rows, g * Group, sums);
      }
#pragma GCC unroll 4
      for (int p = 0; p < panels; ++p) {
        __m512 part[Rows];
        out.load(p, part);
        const __m512 scale = load_scales<Wide>(scales, g * panels + p);
        __m512 minimum = scale;
        if constexpr (Minima) {
          minimum = load_scales<Wide>(scales + form.scale_bytes(), g * panels + p);
        }
        add_group<Group, Minima>(x, rows, g, p, scale, minimum, sums, part);
        out.store(p, part);
      }
    }
  }
}

// ---- the kernel for a form and a number of rows ----

using stream_function =
    void (*)(const std::byte*, int, int, const activations::storage&, int, tile_output);

template <int Bits, int Group, bool Wide, bool Minima>
stream_function stream_of(int planes, int rows) {
  if (planes == 2) {
    return rows == 1 ? stream_rows<Bits, Group, Wide, Minima, 2, 1>
                     : stream_rows<Bits, Group, Wide, Minima, 2, 2>;
  }
  switch (rows) {
    case 1: return stream_rows<Bits, Group, Wide, Minima, 1, 1>;
    case 2: return stream_rows<Bits, Group, Wide, Minima, 1, 2>;
    case 3: return stream_rows<Bits, Group, Wide, Minima, 1, 3>;
    default: return stream_rows<Bits, Group, Wide, Minima, 1, 4>;
  }
}

// Null for a form that no type has.
stream_function find_stream(const integer_form& form, int planes, int rows) {
  const bool minima = form.has_minima;
  if (form.bits == 4 && form.group == 32 && !form.wide_scales) {
    return minima ? stream_of<4, 32, false, true>(planes, rows)
                  : stream_of<4, 32, false, false>(planes, rows);
  }
  if (form.bits == 4 && form.wide_scales) {
    if (form.group == 32) return minima ? stream_of<4, 32, true, true>(planes, rows) : nullptr;
    return minima ? stream_of<4, 16, true, true>(planes, rows)
                  : stream_of<4, 16, true, false>(planes, rows);
  }
  if (form.bits == 8 && form.group == 32) {
    if (form.wide_scales) return minima ? stream_of<8, 32, true, true>(planes, rows) : nullptr;
    return minima ? stream_of<8, 32, false, true>(planes, rows)
                  : stream_of<8, 32, false, false>(planes, rows);
  }
  const bool known = form.bits == 8 && form.group == 16 && form.wide_scales && !minima;
  return known ? stream_of<8, 16, true, false>(planes, rows) : nullptr;
}

void integer_tile(const std::byte* records,
                  int blocks,
                  const integer_form& form,
                  const activations::storage& x,
                  row_range rows,
                  tile_output out) {
  const int most = 4 / x.planes;
  const stream_function whole = find_stream(form, x.planes, most);
  FORETOKEN_ASSERT(whole != nullptr);
  int m = rows.begin;
  for (; m + most <= rows.end; m += most) whole(records, blocks, form.offset, x, m, out);
  if (m == rows.end) return;
  find_stream(form, x.planes, rows.end - m)(records, blocks, form.offset, x, m, out);
}

}  // namespace

const linear_kernels avx512_kernels{true, false, quantise, integer_tile, avx512::float_tile};

}  // namespace foretoken::cpu

#endif
