// SPDX-License-Identifier: Apache-2.0
// The matrix kernels with AVX-512 (F, BW, DQ, VL, VNNI).
//
// Integer weights: two rows of x at a time pass over the tile's stream of records; words are
// unpacked in registers and a row's 64 outputs stay in registers from the first column to the last.
// With one or two rows memory is the limit; with more, the tile stays in the caches and the limit
// is vpdpwssd. Unpacking chunks to scratch for 4 or 6 rows at a time was tried: on a Zen 5 (2
// threads, q4_1) 253 GMAC/s against 351 here at 128 rows and 576 columns; at 1536 columns, on a
// busy machine, 149 and 145 against 124 and 181. Measure again when it is quiet before choosing
// otherwise.

#if defined(__x86_64__)

// GCC 12 sees sign conversions in constant pointer offsets of unrolled templates and uninitialised
// values in its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "base/assert.hpp"
#include "cpu/linear_kernels.hpp"

#define FORETOKEN_AVX512 \
  __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define FORETOKEN_AVX512_INLINE inline __attribute__((always_inline)) FORETOKEN_AVX512

namespace foretoken::cpu {
namespace {

constexpr int panels = tile_rows / 16;  // vectors of 16 outputs in a tile

// How far ahead of the arithmetic the stream is asked for.
constexpr std::size_t prefetch_bytes = 5120;

FORETOKEN_AVX512_INLINE __m512i load_words(const void* from) {
  return _mm512_loadu_si512(from);
}

FORETOKEN_AVX512_INLINE __m512i broadcast_pair(const std::int16_t* q) {
  int pair;
  std::memcpy(&pair, q, sizeof pair);
  return _mm512_set1_epi32(pair);
}

FORETOKEN_AVX512_INLINE __m512 widen_halves(const std::byte* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

// See quantise_block in linear_portable.cpp: the same operations, 16 at a time.
FORETOKEN_AVX512_INLINE void quantise_block(const activations::storage& to,
                                            std::size_t at,
                                            const float* x,
                                            std::int16_t* q) {
  const __m512 x0 = _mm512_loadu_ps(x);
  const __m512 x1 = _mm512_loadu_ps(x + 16);
  const __m512i sign_off = _mm512_set1_epi32(0x7FFFFFFF);
  const __m512i largest = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x0), sign_off),
                                           _mm512_and_si512(_mm512_castps_si512(x1), sign_off));
  const std::uint32_t bits = _mm512_reduce_max_epu32(largest);
  const float magnitude = __builtin_bit_cast(float, bits);
  const bool finite = bits < 0x7F800000u;
  float scale = 0;
  __m512i q0 = _mm512_setzero_si512();
  __m512i q1 = q0;
  if (!finite) {
    scale = __builtin_bit_cast(float, 0x7FC00000u);
  } else if (magnitude >= 1e-30f) {
    scale = magnitude / static_cast<float>(activation_quant_max);
    const __m512 inverse = _mm512_set1_ps(static_cast<float>(activation_quant_max) / magnitude);
    q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
    q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm512_cvtepi32_epi16(q0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + 16), _mm512_cvtepi32_epi16(q1));
  const int first = _mm512_reduce_add_epi32(q0);
  const int second = _mm512_reduce_add_epi32(q1);
  to.scales[at] = scale;
  to.sums[at] = scale * static_cast<float>(first + second);
  to.int_sums[2 * at] = first;
  to.int_sums[2 * at + 1] = second;
  to.half_sums[2 * at] = scale * static_cast<float>(first);
  to.half_sums[2 * at + 1] = scale * static_cast<float>(second);
}

FORETOKEN_AVX512 void quantise(const activations::storage& to, int row, int blocks) {
  for (std::size_t b = 0; b < static_cast<std::size_t>(blocks); ++b) {
    const std::size_t at = to.row(row) + b * block_columns;
    quantise_block(to, to.block(row) + b, to.values + at, to.quants + at);
  }
}

// y = fma(sum, scale * x_scale, y), then the minimum: the order every kernel here keeps.
FORETOKEN_AVX512_INLINE __m512 add_group(__m512 y, __m512i sum, __m512 scale, float x_scale) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale, _mm512_set1_ps(x_scale)), y);
}

// ---- integer weights ----

template <bool Wide>
FORETOKEN_AVX512_INLINE __m512 load_scales(const std::byte* scales, int vector) {
  if constexpr (Wide) return _mm512_loadu_ps(scales + 64 * vector);
  return widen_halves(scales + 32 * vector);
}

// Adds the products of one step's words (16 / Bits pairs of columns) of all panels.
template <int Bits, int Rows>
FORETOKEN_AVX512_INLINE void stream_step(const std::byte* words,
                                         const std::int16_t* const (&q)[Rows],
                                         int column,
                                         __m512i (&sums)[Rows][panels]) {
  constexpr int per_word = 16 / Bits;
  const __m512i mask = _mm512_set1_epi16((1 << Bits) - 1);
#pragma GCC unroll 4
  for (int p = 0; p < panels; ++p) {
    const __m512i word = load_words(words + 64 * p);
#pragma GCC unroll 4
    for (int j = 0; j < per_word; ++j) {
      __m512i weights = j == 0 ? word : _mm512_srli_epi16(word, static_cast<unsigned>(j * Bits));
      if (j != per_word - 1) weights = _mm512_and_si512(weights, mask);
#pragma GCC unroll 2
      for (int m = 0; m < Rows; ++m) {
        sums[m][p] =
            _mm512_dpwssd_epi32(sums[m][p], weights, broadcast_pair(q[m] + column + 2 * j));
      }
    }
  }
}

template <int Bits, int Group, bool Wide, bool Minima, int Rows>
FORETOKEN_AVX512_INLINE void stream_record(const std::byte* record,
                                           int offset,
                                           const activations::storage& x,
                                           int first_row,
                                           std::size_t block,
                                           __m512 (&y)[Rows][panels]) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  constexpr int step_columns = 32 / Bits;
  const std::byte* const scales = record + form.quant_bytes();
  for (int g = 0; g < form.groups(); ++g) {
    const std::int16_t* q[Rows];
    std::size_t at[Rows];
    __m512i sums[Rows][panels];
    for (int m = 0; m < Rows; ++m) {
      at[m] = x.block(first_row + m) + block;
      q[m] = x.quants + x.row(first_row + m) + block * block_columns;
      const std::int32_t* const s = x.int_sums + 2 * at[m];
      const int x_sum = Group == 32 ? s[0] + s[1] : s[g];
      for (auto& sum : sums[m]) sum = _mm512_set1_epi32(-offset * x_sum);
    }
#pragma GCC unroll 8
    for (int c = g * Group; c < (g + 1) * Group; c += step_columns) {
      stream_step<Bits, Rows>(record + c / step_columns * 256, q, c, sums);
    }
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      const __m512 scale = load_scales<Wide>(scales, g * panels + p);
      for (int m = 0; m < Rows; ++m)
        y[m][p] = add_group(y[m][p], sums[m][p], scale, x.scales[at[m]]);
      if constexpr (Minima) {
        const __m512 minimum = load_scales<Wide>(scales + form.scale_bytes(), g * panels + p);
        for (int m = 0; m < Rows; ++m) {
          const float x_sum =
              Group == 32 ? x.sums[at[m]] : x.half_sums[2 * at[m] + static_cast<std::size_t>(g)];
          y[m][p] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x_sum), y[m][p]);
        }
      }
    }
  }
}

template <int Bits, int Group, bool Wide, bool Minima, int Rows>
FORETOKEN_AVX512 void stream_tile(const std::byte* record,
                                  int blocks,
                                  int offset,
                                  const activations::storage& x,
                                  int first_row,
                                  tile_output out) {
  constexpr std::size_t bytes = integer_form{Bits, Group, Wide, Minima, 0}.record_bytes();
  __m512 y[Rows][panels];
  for (auto& row : y) {
    for (auto& value : row) value = _mm512_setzero_ps();
  }
  for (int b = 0; b < blocks; ++b, record += bytes) {
    for (std::size_t i = 0; i < bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(record) + prefetch_bytes + i, _MM_HINT_T0);
    }
    stream_record<Bits, Group, Wide, Minima, Rows>(record, offset, x, first_row,
                                                   static_cast<std::size_t>(b), y);
  }
  for (int m = 0; m < Rows; ++m) {
    float* const to = out.y + static_cast<std::size_t>(first_row + m) * out.stride;
    for (int p = 0; p < panels; ++p) _mm512_storeu_ps(to + 16 * p, y[m][p]);
  }
}

using stream_function =
    void (*)(const std::byte*, int, int, const activations::storage&, int, tile_output);

template <int Bits, int Group, bool Wide, bool Minima>
stream_function stream_of(int rows) {
  return rows == 1 ? stream_tile<Bits, Group, Wide, Minima, 1>
                   : stream_tile<Bits, Group, Wide, Minima, 2>;
}

// Null for a form that no type has.
stream_function find_stream(const integer_form& form, int rows) {
  const bool minima = form.has_minima;
  if (form.bits == 4 && form.group == 32) {
    if (!form.wide_scales) {
      return minima ? stream_of<4, 32, false, true>(rows) : stream_of<4, 32, false, false>(rows);
    }
    return minima ? stream_of<4, 32, true, true>(rows) : nullptr;
  }
  if (form.bits == 4 && form.wide_scales) {
    return minima ? stream_of<4, 16, true, true>(rows) : stream_of<4, 16, true, false>(rows);
  }
  if (form.bits == 8 && form.group == 32) {
    if (form.wide_scales) return minima ? stream_of<8, 32, true, true>(rows) : nullptr;
    return minima ? stream_of<8, 32, false, true>(rows) : stream_of<8, 32, false, false>(rows);
  }
  if (form.bits == 8 && form.wide_scales && !minima) return stream_of<8, 16, true, false>(rows);
  return nullptr;
}

void integer_tile(const std::byte* records,
                  int blocks,
                  const integer_form& form,
                  const activations::storage& x,
                  row_range rows,
                  tile_output out) {
  const stream_function pairs = find_stream(form, 2);
  FORETOKEN_ASSERT(pairs != nullptr);
  int m = rows.begin;
  for (; m + 2 <= rows.end; m += 2) pairs(records, blocks, form.offset, x, m, out);
  if (m < rows.end) find_stream(form, 1)(records, blocks, form.offset, x, m, out);
}

// ---- float weights ----

template <float_form Form>
FORETOKEN_AVX512_INLINE __m512 load_floats(const std::byte* values, std::size_t index) {
  if constexpr (Form == float_form::f32) return _mm512_loadu_ps(values + 4 * index);
  const std::byte* const from = values + 2 * index;
  if constexpr (Form == float_form::f16) return widen_halves(from);
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// One chunk of columns for Rows rows; the weights come in any form, the sums are the same.
template <float_form Form, int Rows>
FORETOKEN_AVX512 void float_rows(const std::byte* values,
                                 int columns,
                                 const float* x,
                                 std::size_t x_stride,
                                 bool first,
                                 float* y,
                                 std::size_t y_stride) {
  __m512 sums[Rows][panels];
  for (auto& row : sums) {
    for (auto& sum : row) sum = _mm512_setzero_ps();
  }
  for (int k = 0; k < columns; ++k) {
    __m512 w[panels];
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      w[p] = load_floats<Form>(values, static_cast<std::size_t>(k * tile_rows + 16 * p));
    }
#pragma GCC unroll 4
    for (int m = 0; m < Rows; ++m) {
      const __m512 value =
          _mm512_set1_ps(x[static_cast<std::size_t>(m) * x_stride + static_cast<std::size_t>(k)]);
#pragma GCC unroll 4
      for (int p = 0; p < panels; ++p) sums[m][p] = _mm512_fmadd_ps(w[p], value, sums[m][p]);
    }
  }
  for (int m = 0; m < Rows; ++m) {
    float* const to = y + static_cast<std::size_t>(m) * y_stride;
    for (int p = 0; p < panels; ++p) {
      const __m512 before = first ? _mm512_setzero_ps() : _mm512_loadu_ps(to + 16 * p);
      _mm512_storeu_ps(to + 16 * p, _mm512_add_ps(before, sums[m][p]));
    }
  }
}

template <float_form Form>
FORETOKEN_AVX512 void widen_chunk(const std::byte* values, int columns, float* to) {
  for (int i = 0; i < columns * tile_rows; i += 16) {
    _mm512_storeu_ps(to + i, load_floats<Form>(values, static_cast<std::size_t>(i)));
  }
}

template <float_form Form>
void float_chunk(const std::byte* values,
                 int columns,
                 int first,
                 const activations::storage& x,
                 row_range rows,
                 tile_output out) {
  const auto x_at = [&](int m) { return x.values + x.row(m) + first; };
  const auto y_at = [&](int m) { return out.y + static_cast<std::size_t>(m) * out.stride; };
  int m = rows.begin;
  for (; m + 4 <= rows.end; m += 4) {
    float_rows<Form, 4>(values, columns, x_at(m), x.stride, first == 0, y_at(m), out.stride);
  }
  for (; m < rows.end; ++m) {
    float_rows<Form, 1>(values, columns, x_at(m), x.stride, first == 0, y_at(m), out.stride);
  }
}

template <float_form Form>
void float_columns(const std::byte* values,
                   int columns,
                   const activations::storage& x,
                   row_range rows,
                   tile_output out) {
  constexpr std::size_t size = Form == float_form::f32 ? 4 : 2;
  alignas(64) float widened[float_chunk_columns * tile_rows];
  const bool widen = Form != float_form::f32 && rows.end - rows.begin > 4;
  for (int first = 0; first < columns; first += float_chunk_columns) {
    const int count = std::min(float_chunk_columns, columns - first);
    const std::byte* const chunk = values + size * static_cast<std::size_t>(first * tile_rows);
    if (widen) {
      widen_chunk<Form>(chunk, count, widened);
      float_chunk<float_form::f32>(reinterpret_cast<const std::byte*>(widened), count, first, x,
                                   rows, out);
    } else {
      float_chunk<Form>(chunk, count, first, x, rows, out);
    }
  }
}

void float_tile(const std::byte* values,
                int columns,
                float_form form,
                const activations::storage& x,
                row_range rows,
                tile_output out) {
  switch (form) {
    case float_form::f32: return float_columns<float_form::f32>(values, columns, x, rows, out);
    case float_form::f16: return float_columns<float_form::f16>(values, columns, x, rows, out);
    case float_form::bf16: return float_columns<float_form::bf16>(values, columns, x, rows, out);
  }
}

}  // namespace

const linear_kernels avx512_kernels{quantise, integer_tile, float_tile};

}  // namespace foretoken::cpu

#endif
