// SPDX-License-Identifier: Apache-2.0
// The matrix kernels with AVX2, FMA and F16C. A chunk of records is unpacked to 16-bit weights in
// the first-level cache for any number of rows; vpmaddwd multiplies them with the 16-bit
// activations without ever saturating, which vpmaddubsw with 8-bit weights would.

#if defined(__x86_64__)

// GCC 12 sees sign conversions in constant pointer offsets of unrolled templates and uninitialised
// values in its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <algorithm>

#include "cpu/linear_kernels.hpp"
#include "cpu/linear_unpack.hpp"

#define FORETOKEN_AVX2 __attribute__((target("avx2,fma,f16c")))
#define FORETOKEN_AVX2_INLINE inline __attribute__((always_inline)) FORETOKEN_AVX2

namespace foretoken::cpu {
namespace {

constexpr int vectors = 2;  // of 8 outputs: a panel
constexpr int panel_rows = 8 * vectors;
constexpr int panels = tile_rows / panel_rows;

FORETOKEN_AVX2_INLINE __m256i load_words(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

FORETOKEN_AVX2_INLINE __m256i broadcast_pair(const std::int16_t* q) {
  int pair;
  std::memcpy(&pair, q, sizeof pair);
  return _mm256_set1_epi32(pair);
}

FORETOKEN_AVX2_INLINE __m256 widen_halves(const std::byte* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

FORETOKEN_AVX2_INLINE __m128i fold(__m256i x, bool largest) {
  const __m128i a = _mm256_castsi256_si128(x);
  const __m128i b = _mm256_extracti128_si256(x, 1);
  return largest ? _mm_max_epu32(a, b) : _mm_add_epi32(a, b);
}

FORETOKEN_AVX2_INLINE std::uint32_t reduce(__m256i x, bool largest) {
  __m128i v = fold(x, largest);
  const __m128i halves = _mm_shuffle_epi32(v, 0x4E);
  v = largest ? _mm_max_epu32(v, halves) : _mm_add_epi32(v, halves);
  const __m128i neighbours = _mm_shuffle_epi32(v, 0xB1);
  v = largest ? _mm_max_epu32(v, neighbours) : _mm_add_epi32(v, neighbours);
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(v));
}

// 16 columns of a block; returns their sum.
FORETOKEN_AVX2_INLINE std::int32_t quantise_half(const float* x, __m256 inverse, std::int16_t* q) {
  const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
  const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), packed);
  return static_cast<std::int32_t>(reduce(_mm256_add_epi32(a, b), false));
}

// See quantise() in linear_portable.cpp: the same operations, 8 at a time.
FORETOKEN_AVX2 void quantise(const activations::storage& to, std::size_t at, const float* x) {
  std::int16_t* const q = to.words + at * block_columns;
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < block_columns; i += 8) {
    const __m256i bits = load_words(x + i);
    largest = _mm256_max_epu32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF)));
  }
  const std::uint32_t bits = reduce(largest, true);
  const float magnitude = __builtin_bit_cast(float, bits);
  if (bits >= 0x7F800000u || magnitude < 1e-30f) {
    std::fill_n(q, block_columns, std::int16_t{0});
    return to.put_block(at, bits < 0x7F800000u ? 0.0f : __builtin_bit_cast(float, 0x7FC00000u), 0,
                        0);
  }
  const __m256 inverse = _mm256_set1_ps(to.quant_max() / magnitude);
  const std::int32_t first = quantise_half(x, inverse, q);
  const std::int32_t second = quantise_half(x + 16, inverse, q + 16);
  to.put_block(at, magnitude / to.quant_max(), first, second);
}

FORETOKEN_AVX2 void widen_row_of_scales(const std::byte* from, float* out) {
  for (int i = 0; i < tile_rows; i += 8) _mm256_storeu_ps(out + i, widen_halves(from + 2 * i));
}

FORETOKEN_AVX2 void unpack(const std::byte* records,
                           int blocks,
                           const integer_form& form,
                           integer_chunk& out) {
  unpack_chunk(records, blocks, form, widen_row_of_scales, out);
}

template <int Rows>
FORETOKEN_AVX2_INLINE void group_sums(const std::int16_t* weights,
                                      int pairs,
                                      const std::int16_t* q,
                                      std::size_t q_stride,
                                      __m256i (&sums)[Rows][vectors]) {
  for (auto& row : sums) {
    for (auto& sum : row) sum = _mm256_setzero_si256();
  }
  for (int j = 0; j < pairs; ++j) {
    __m256i w[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) w[v] = load_words(weights + j * pair_words + 16 * v);
#pragma GCC unroll 4
    for (int m = 0; m < Rows; ++m) {
      const __m256i pair = broadcast_pair(q + static_cast<std::size_t>(m) * q_stride + 2 * j);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        sums[m][v] = _mm256_add_epi32(sums[m][v], _mm256_madd_epi16(w[v], pair));
      }
    }
  }
}

struct chunk_work {
  const integer_chunk* chunk;
  const activations::storage* x;
  int first_block;
  int blocks;
  const integer_form* form;
};

// One group of columns, one panel of outputs: y = fma(sum, scale * x_scale, y), then the minimum.
template <int Rows>
FORETOKEN_AVX2_INLINE void panel_group(
    const chunk_work& work, int b, int g, int panel, int first_row, tile_output out) {
  const activations::storage& x = *work.x;
  const int group = work.form->group;
  const auto block = static_cast<std::size_t>(work.first_block + b);
  const std::int16_t* const q = x.words + x.row(first_row) + block * block_columns + g * group;
  const std::int16_t* const weights =
      work.chunk->weights[b][g * group / 2] + 2 * panel_rows * panel;
  __m256i sums[Rows][vectors];
  group_sums<Rows>(weights, group / 2, q, x.stride, sums);
  const bool first = block == 0 && g == 0;
  for (int m = 0; m < Rows; ++m) {
    const std::size_t at = x.block(first_row + m) + block;
    const float x_sum =
        group == 32 ? x.sums[at] : x.half_sums[2 * at + static_cast<std::size_t>(g)];
    const __m256 x_scale = _mm256_set1_ps(x.scales[at]);
    float* const y =
        out.y + static_cast<std::size_t>(first_row + m) * out.stride + panel_rows * panel;
    for (int v = 0; v < vectors; ++v) {
      const int from = panel_rows * panel + 8 * v;
      const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8 * v);
      const __m256 scale = _mm256_loadu_ps(work.chunk->scales[b][g] + from);
      __m256 after =
          _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[m][v]), _mm256_mul_ps(scale, x_scale), before);
      if (work.form->has_minima) {
        const __m256 minimum = _mm256_loadu_ps(work.chunk->minima[b][g] + from);
        after = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x_sum), after);
      }
      _mm256_storeu_ps(y + 8 * v, after);
    }
  }
}

template <int Rows>
FORETOKEN_AVX2 void chunk_rows(const chunk_work& work, int first_row, tile_output out) {
  for (int b = 0; b < work.blocks; ++b) {
    for (int g = 0; g < work.form->groups(); ++g) {
      for (int panel = 0; panel < panels; ++panel)
        panel_group<Rows>(work, b, g, panel, first_row, out);
    }
  }
}

void integer_tile(const std::byte* records,
                  int blocks,
                  const integer_form& form,
                  const activations::storage& x,
                  row_range rows,
                  tile_output out) {
  integer_chunk chunk;
  for (int first = 0; first < blocks; first += chunk_blocks) {
    const int here = std::min(chunk_blocks, blocks - first);
    unpack(records, here, form, chunk);
    records += form.record_bytes() * static_cast<std::size_t>(here);
    const chunk_work work{&chunk, &x, first, here, &form};
    int m = rows.begin;
    for (; m + 4 <= rows.end; m += 4) chunk_rows<4>(work, m, out);
    for (; m < rows.end; ++m) chunk_rows<1>(work, m, out);
  }
}

// ---- float weights ----

template <float_form Form>
FORETOKEN_AVX2_INLINE __m256 load_floats(const std::byte* values, std::size_t index) {
  if constexpr (Form == float_form::f32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(values) + index);
  }
  const std::byte* const from = values + 2 * index;
  if constexpr (Form == float_form::f16) return widen_halves(from);
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

template <float_form Form>
FORETOKEN_AVX2 void widen_chunk(const std::byte* values, int columns, float* to) {
  for (int i = 0; i < columns * tile_rows; i += 8) {
    _mm256_storeu_ps(to + i, load_floats<Form>(values, static_cast<std::size_t>(i)));
  }
}

struct float_work {
  const float* weights;  // [columns][64]
  int columns;
  int first_column;
  const activations::storage* x;
};

// Rows rows of x, `Vectors` vectors of 8 outputs from `output` on.
template <int Rows, int Vectors>
FORETOKEN_AVX2_INLINE void float_panel(const float_work& work,
                                       int output,
                                       int first_row,
                                       tile_output out) {
  const float* const x = work.x->values + work.x->row(first_row) + work.first_column;
  __m256 sums[Rows][Vectors];
  for (auto& row : sums) {
    for (auto& sum : row) sum = _mm256_setzero_ps();
  }
  for (int k = 0; k < work.columns; ++k) {
    __m256 w[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      w[v] = _mm256_loadu_ps(work.weights + k * tile_rows + output + 8 * v);
    }
#pragma GCC unroll 4
    for (int m = 0; m < Rows; ++m) {
      const __m256 value = _mm256_set1_ps(
          x[static_cast<std::size_t>(m) * work.x->stride + static_cast<std::size_t>(k)]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[m][v] = _mm256_fmadd_ps(w[v], value, sums[m][v]);
    }
  }
  for (int m = 0; m < Rows; ++m) {
    float* const y = out.y + static_cast<std::size_t>(first_row + m) * out.stride + output;
    for (int v = 0; v < Vectors; ++v) {
      const __m256 before =
          work.first_column == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8 * v);
      _mm256_storeu_ps(y + 8 * v, _mm256_add_ps(before, sums[m][v]));
    }
  }
}

FORETOKEN_AVX2 void float_rows(const float_work& work, row_range rows, tile_output out) {
  int m = rows.begin;
  for (; m + 4 <= rows.end; m += 4) {
    for (int output = 0; output < tile_rows; output += 16) float_panel<4, 2>(work, output, m, out);
  }
  for (; m < rows.end; ++m) {
    for (int output = 0; output < tile_rows; output += 32) float_panel<1, 4>(work, output, m, out);
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
  for (int first = 0; first < columns; first += float_chunk_columns) {
    const int count = std::min(float_chunk_columns, columns - first);
    const std::byte* const chunk = values + size * static_cast<std::size_t>(first * tile_rows);
    const float* weights = reinterpret_cast<const float*>(chunk);
    if constexpr (Form != float_form::f32) {
      widen_chunk<Form>(chunk, count, widened);
      weights = widened;
    }
    float_rows({weights, count, first, &x}, rows, out);
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

const linear_kernels avx2_kernels{false, quantise, integer_tile, float_tile};

}  // namespace foretoken::cpu

#endif
