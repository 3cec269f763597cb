// SPDX-License-Identifier: Apache-2.0
// Activations and float weights with AVX2, FMA and F16C; integer weights are in
// linear_avx2_integer.cpp.

#if defined(__x86_64__)

#include "cpu/linear_avx2.hpp"

#include <algorithm>

namespace foretoken::cpu {
namespace {

using avx2::load_words;
using avx2::widen_halves;

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

// 16 columns of a block as words; returns their sum.
FORETOKEN_AVX2_INLINE std::int32_t quantise_half(const float* x, __m256 inverse, std::int16_t* q) {
  const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
  const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), packed);
  return static_cast<std::int32_t>(reduce(_mm256_add_epi32(a, b), false));
}

FORETOKEN_AVX2_INLINE void put_bytes(std::int8_t* to, __m256i first, __m256i second) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
}

// The planes of bytes of a block of words: high first, low in [-128, 127].
FORETOKEN_AVX2_INLINE void part_words(const std::int16_t* words, int planes, std::int8_t* bytes) {
  const __m256i a = load_words(words);
  const __m256i b = load_words(words + 16);
  if (planes == 1) return put_bytes(bytes, a, b);
  const __m256i round = _mm256_set1_epi16(128);
  const __m256i high_a = _mm256_srai_epi16(_mm256_add_epi16(a, round), 8);
  const __m256i high_b = _mm256_srai_epi16(_mm256_add_epi16(b, round), 8);
  put_bytes(bytes, high_a, high_b);
  put_bytes(bytes + block_columns, _mm256_sub_epi16(a, _mm256_slli_epi16(high_a, 8)),
            _mm256_sub_epi16(b, _mm256_slli_epi16(high_b, 8)));
}

// See quantise() in linear_portable.cpp: the same operations, 8 at a time.
FORETOKEN_AVX2 void quantise_block(const activations::storage& to, std::size_t at, const float* x) {
  std::int16_t* const q = to.words + at * block_columns;
  std::int8_t* const bytes = to.bytes + at * block_columns * static_cast<std::size_t>(to.planes);
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < block_columns; i += 8) {
    const __m256i bits = load_words(x + i);
    largest = _mm256_max_epu32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF)));
  }
  const std::uint32_t bits = reduce(largest, true);
  const block_scale scale = scale_for(bits, to.planes);
  if (!(scale.power > 0)) {
    std::fill_n(q, block_columns, std::int16_t{0});
    std::fill_n(bytes, block_columns * to.planes, std::int8_t{0});
    return to.put_sums(at, scale.value(), 0, 0);
  }
  const __m256 inverse = _mm256_set1_ps(1.0f / scale.value());
  const std::int32_t first = quantise_half(x, inverse, q);
  const std::int32_t second = quantise_half(x + 16, inverse, q + 16);
  part_words(q, to.planes, bytes);
  to.put_sums(at, scale.value(), first, second);
}

FORETOKEN_AVX2 void quantise(const activations::storage& to, const block_walk& walk) {
  for (int i = 0; i < walk.count; ++i) quantise_block(to, walk.block(i), walk.values(i));
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

const linear_kernels avx2_kernels{false, true, true, quantise, avx2::integer_tile, float_tile};

}  // namespace foretoken::cpu

#endif
