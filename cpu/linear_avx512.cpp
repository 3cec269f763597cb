// SPDX-License-Identifier: Apache-2.0
// Integer weights with AVX-512 VNNI: y[m][n] = sum over groups g of 32 (or 16) columns of
//   scale[n][g] * x_scale[m][g] * (sum of w[n][k] * q[m][k]) + minimum[n][g] * x_sum[m][g].
//
// vpdpbusd adds four products of unsigned weights and signed activations to each of 16 outputs. An
// exact row is two planes of bytes, which are multiplied as two rows and joined as 256 * high +
// low.
//
// A block is up to four planes (four fast rows, two exact ones) of 32 outputs; with one or two
// planes, of 64. Its sums and outputs stay in registers over all columns: a store of 64 bytes costs
// as much as a vpdpbusd. Nibbles are parted in registers.
//
// What limits it (Zen 4): vpdpbusd, multiplications and multiply-adds share one issue a cycle;
// loads, logic, shifts, conversions and float additions are free beside them. Per group a block of
// four planes and 16 outputs costs 32 vpdpbusd, 4 multiplications by the row's scale, 4 multiply-
// adds of the scale and 4 of the minimum (half of these in exact). So at most 73 % of vpdpbusd's
// rate can be reached in fast and 84 % in exact with minima, 80 % and 89 % without. Measured
// (2 threads, q4_1, 3072 x 576): 70 to 73 % in the caches. From memory the stream hides behind the
// multiplications as long as the thread asks in time for the tile that it takes next, evenly
// between its multiplications: 20 % more at 32 rows, 70 % more at 8, twice as much at 4.
//
// Tried and dropped: blocks of 64 outputs with the outputs in memory (60 %); asking for the next
// tile in one go, or into the first-level cache (the tile in use falls out). A whole copy of the
// weights as bytes was not built: parting costs nothing here, and bytes double the stream.

#if defined(__x86_64__)

#include "cpu/linear_avx512.hpp"

#include <algorithm>
#include <cstring>

#include "base/assert.hpp"

namespace foretoken::cpu {
namespace {

using avx512::panels;
using avx512::widen_halves;

FORETOKEN_AVX512_INLINE __m512i load_bytes(const void* from) {
  return _mm512_loadu_si512(from);
}

FORETOKEN_AVX512_INLINE __m512i broadcast_quad(const std::int8_t* q) {
  int quad;
  std::memcpy(&quad, q, sizeof quad);
  return _mm512_set1_epi32(quad);
}

// Where the stream goes on: asked for a line at a time, between the multiplications.
// The second-level cache is where it fits: the first holds the tile that is multiplied.
struct read_ahead {
  const std::byte* at;
  std::size_t stride;
  FORETOKEN_AVX512_INLINE void next() {
    _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
    at += stride;
  }
};

// 32 whole numbers as bytes: their low ones.
FORETOKEN_AVX512_INLINE __m256i low_bytes(__m512i first, __m512i second) {
  return _mm256_set_m128i(_mm512_cvtepi32_epi8(second), _mm512_cvtepi32_epi8(first));
}

// Sums of the first and of the last 16 of 32 signed bytes.
FORETOKEN_AVX512_INLINE __m128i sum_halves(__m256i bytes) {
  constexpr int shift = 128;  // makes them unsigned
  const __m256i above = _mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(-shift)));
  const __m256i eights = _mm256_sad_epu8(above, _mm256_setzero_si256());
  const __m256i halves = _mm256_add_epi64(eights, _mm256_unpackhi_epi64(eights, eights));
  const __m128i both =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  return _mm_sub_epi32(both, _mm_set1_epi32(16 * shift));
}

// See quantise() in linear_portable.cpp: the same operations, 16 at a time.
FORETOKEN_AVX512_INLINE void quantise_block(const activations::storage& to,
                                            std::size_t at,
                                            const float* x) {
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
  auto* q = reinterpret_cast<__m256i*>(to.bytes +
                                       at * block_columns * static_cast<std::size_t>(to.planes));
  const __m256i low = low_bytes(q0, q1);  // in [-128, 127]
  __m128i sums = sum_halves(low);
  if (to.planes == 2) {
    const __m512i round = _mm512_set1_epi32(128);
    const __m256i high = low_bytes(_mm512_srai_epi32(_mm512_add_epi32(q0, round), 8),
                                   _mm512_srai_epi32(_mm512_add_epi32(q1, round), 8));
    _mm256_storeu_si256(q++, high);
    sums = _mm_add_epi32(sums, _mm_slli_epi32(sum_halves(high), 8));
  }
  _mm256_storeu_si256(q, low);
  to.put_block(at, scale, _mm_cvtsi128_si32(sums), _mm_extract_epi32(sums, 1));
}

FORETOKEN_AVX512 void quantise(const activations::storage& to,
                               std::size_t at,
                               const float* x,
                               int blocks) {
  for (int b = 0; b < blocks; ++b)
    quantise_block(to, at + static_cast<std::size_t>(b), x + b * block_columns);
}

template <bool Wide>
FORETOKEN_AVX512_INLINE __m512 load_scales(const std::byte* scales, int vector) {
  if constexpr (Wide) return _mm512_loadu_ps(scales + 64 * vector);
  return widen_halves(scales + 32 * vector);
}

// What a few rows do with a tile.
struct stream_job {
  integer_stream tile;
  int offset;
  const activations::storage& x;
  int first_row;
  tile_output out;
  struct {
    const std::byte* at;
    std::size_t bytes;
  } ahead;  // what to ask for
};

// Rows of activations that pass over a tile together.
template <int Planes, int Rows>
struct row_block {
  const std::int8_t* q;  // of the first row and block
  std::size_t q_stride;  // bytes from one row to the next
  std::size_t at;        // block number of the first row
  std::size_t at_stride;

  row_block(const activations::storage& x, int first_row) {
    constexpr auto block_bytes = static_cast<std::size_t>(Planes * block_columns);
    at_stride = x.blocks;
    q_stride = x.blocks * block_bytes;
    at = x.block(first_row);
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

// Sums begin at -offset * x_sum, in the low plane.
template <int Group, int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void begin_sums(const activations::storage& x,
                                        const row_block<Planes, Rows>& rows,
                                        int group,
                                        int offset,
                                        block_sums<Planes, Rows, Panels>& block) {
#pragma GCC unroll 4
  for (int v = 0; v < Planes * Rows; ++v) {
    int first = 0;
    if (offset != 0 && v % Planes == Planes - 1) {
      const std::int32_t* const s = x.int_sums + 2 * rows.block(v / Planes);
      first = -offset * (Group == 32 ? s[0] + s[1] : s[group]);
    }
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) block.sums[v][p] = _mm512_set1_epi32(first);
  }
}

// y = fma(sum, scale * x_scale, y), then the minimum: the order every kernel keeps.
template <int Group, bool Minima, int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void add_group(const activations::storage& x,
                                       const row_block<Planes, Rows>& rows,
                                       int group,
                                       int panel,
                                       __m512 scale,
                                       __m512 minimum,
                                       block_sums<Planes, Rows, Panels>& block) {
#pragma GCC unroll 4
  for (int m = 0; m < Rows; ++m) {
    const std::size_t at = rows.block(m);
    __m512& y = block.y[m][panel];
    __m512i sum = block.sums[m * Planes][panel];
    if constexpr (Planes == 2) {
      sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), block.sums[m * Planes + 1][panel]);
    }
    const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[at]));
    y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both, y);
    if constexpr (Minima) {
      const float x_sum =
          Group == 32 ? x.sums[at] : x.half_sums[2 * at + static_cast<std::size_t>(group)];
      y = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x_sum), y);
    }
  }
}

// Adds the products of one group of columns; `quants` are the group's, from the first panel on.
template <int Group, int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void multiply_bytes(const std::byte* quants,
                                            const row_block<Planes, Rows>& rows,
                                            int first_column,
                                            read_ahead& ahead,
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

template <int Group, int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void multiply_nibbles(const std::byte* quants,
                                              const row_block<Planes, Rows>& rows,
                                              int first_column,
                                              read_ahead& ahead,
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

// Rows x Panels outputs over all columns.
template <int Bits, int Group, bool Wide, bool Minima, int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void stream_panels(const stream_job& job,
                                           int first_panel,
                                           read_ahead ahead) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  row_block<Planes, Rows> rows(job.x, job.first_row);
  block_sums<Planes, Rows, Panels> block;
#pragma GCC unroll 16
  for (int i = 0; i < Rows * Panels; ++i) block.y[i / Panels][i % Panels] = _mm512_setzero_ps();
  const std::byte* record = job.tile.records;
  for (int b = 0; b < job.tile.blocks; ++b, record += form.record_bytes(), rows.next()) {
    const std::byte* const scales = record + form.quant_bytes();
    for (int g = 0; g < form.groups(); ++g) {
      const std::byte* const quants = record + g * Group * tile_rows * Bits / 8 + first_panel * 64;
      begin_sums<Group>(job.x, rows, g, job.offset, block);
      if constexpr (Bits == 4) {
        multiply_nibbles<Group>(quants, rows, g * Group, ahead, block);
      } else {
        multiply_bytes<Group>(quants, rows, g * Group, ahead, block);
      }
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) {
        ahead.next();
        const __m512 scale = load_scales<Wide>(scales, g * panels + first_panel + p);
        __m512 minimum = scale;
        if constexpr (Minima) {
          minimum = load_scales<Wide>(scales + form.scale_bytes(), g * panels + first_panel + p);
        }
        add_group<Group, Minima>(job.x, rows, g, p, scale, minimum, block);
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < Rows; ++m) {
    float* const to = job.out.y + static_cast<std::size_t>(job.first_row + m) * job.out.stride;
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) _mm512_storeu_ps(to + 16 * (first_panel + p), block.y[m][p]);
  }
}

// Rows of a tile; the lines asked for are spread over all multiplications.
template <int Bits, int Group, bool Wide, bool Minima, int Planes, int Rows>
FORETOKEN_AVX512 void stream_rows(const stream_job& job) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  constexpr int at_once = Planes * Rows > 2 ? 2 : panels;
  constexpr int units = panels * (block_columns * Bits / 32 + form.groups());  // of next() a record
  const std::size_t stride = job.ahead.bytes / static_cast<std::size_t>(units * job.tile.blocks);
  const std::size_t share = job.ahead.bytes * at_once / panels;
  read_ahead ahead{job.ahead.at, stride};
  for (int p = 0; p < panels; p += at_once, ahead.at += share) {
    stream_panels<Bits, Group, Wide, Minima, Planes, Rows, at_once>(job, p, ahead);
  }
}

// ---- the kernel for a form and a number of rows ----

using stream_function = void (*)(const stream_job&);

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

void integer_tile(const integer_stream& tile,
                  const integer_form& form,
                  const activations::storage& x,
                  row_range rows,
                  tile_output out) {
  const int most = 4 / x.planes;
  const stream_function whole = find_stream(form, x.planes, most);
  FORETOKEN_ASSERT(whole != nullptr);
  const int passes = (rows.end - rows.begin + most - 1) / most;
  const std::size_t bytes = form.record_bytes() * static_cast<std::size_t>(tile.blocks);
  const std::size_t share = tile.next == nullptr ? 0 : bytes / static_cast<std::size_t>(passes);
  stream_job job{tile,       form.offset, x,
                 rows.begin, out,         {tile.next ? tile.next : tile.records, share}};
  for (; job.first_row + most <= rows.end; job.first_row += most) {
    whole(job);
    job.ahead.at += share;
  }
  if (job.first_row < rows.end) find_stream(form, x.planes, rows.end - job.first_row)(job);
}

}  // namespace

const linear_kernels avx512_kernels{true, false, quantise, integer_tile, avx512::float_tile};

}  // namespace foretoken::cpu

#endif
