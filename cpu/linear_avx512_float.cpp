// SPDX-License-Identifier: Apache-2.0
// Float weights with AVX-512: four rows of x pass over a chunk of 64 columns of a tile, which is
// widened once for all of them. 64 x 64 multiply-adds of floats a row and chunk, 4 to 16 KiB of
// weights.

#if defined(__x86_64__)

#include "cpu/linear_avx512.hpp"

#include <algorithm>

namespace foretoken::cpu::avx512 {
namespace {

template <float_form Form>
FORETOKEN_AVX512_INLINE __m512 load_floats(const std::byte* values, std::size_t index) {
  if constexpr (Form == float_form::f32) return _mm512_loadu_ps(values + 4 * index);
  const std::byte* const from = values + 2 * index;
  if constexpr (Form == float_form::f16) return widen_halves(from);
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// A chunk of columns of a tile, and where rows of x read and write it.
struct chunk_work {
  const std::byte* values;
  int columns;
  bool first;  // the outputs hold nothing yet
  const float* x;
  std::size_t x_stride;
  tile_output out;
};

// One chunk of columns for Rows rows; the weights come in any form, the sums are the same.
template <float_form Form, int Rows>
FORETOKEN_AVX512 void float_rows(const chunk_work& work, int first_row) {
  const auto row = static_cast<std::size_t>(first_row);
  const float* const x = work.x + row * work.x_stride;
  float* const y = work.out.y + row * work.out.stride;
  __m512 sums[Rows][panels];
  for (auto& of_row : sums) {
    for (auto& sum : of_row) sum = _mm512_setzero_ps();
  }
  for (int k = 0; k < work.columns; ++k) {
    __m512 w[panels];
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      w[p] = load_floats<Form>(work.values, static_cast<std::size_t>(k * tile_rows + 16 * p));
    }
#pragma GCC unroll 4
    for (int m = 0; m < Rows; ++m) {
      const __m512 value = _mm512_set1_ps(
          x[static_cast<std::size_t>(m) * work.x_stride + static_cast<std::size_t>(k)]);
#pragma GCC unroll 4
      for (int p = 0; p < panels; ++p) sums[m][p] = _mm512_fmadd_ps(w[p], value, sums[m][p]);
    }
  }
  for (int m = 0; m < Rows; ++m) {
    float* const to = y + static_cast<std::size_t>(m) * work.out.stride;
    for (int p = 0; p < panels; ++p) {
      const __m512 before = work.first ? _mm512_setzero_ps() : _mm512_loadu_ps(to + 16 * p);
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
  const chunk_work work{values, columns, first == 0, x.values + first, x.stride, out};
  int m = rows.begin;
  for (; m + 4 <= rows.end; m += 4) float_rows<Form, 4>(work, m);
  for (; m < rows.end; ++m) float_rows<Form, 1>(work, m);
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

}  // namespace

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

}  // namespace foretoken::cpu::avx512

#endif
