// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the AVX2 (with FMA and F16C) matrix kernels share. Included by cpu/linear_avx2*.cpp only.

// GCC 12 sees sign conversions in constant pointer offsets of unrolled templates and uninitialised
// values in its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include <cstring>

#include "cpu/linear_kernels.hpp"

#define FORETOKEN_AVX2 __attribute__((target("avx2,fma,f16c")))
#define FORETOKEN_AVX2_INLINE inline __attribute__((always_inline)) FORETOKEN_AVX2

namespace foretoken::cpu::avx2 {

constexpr int panel_rows = 8;                   // outputs of a vector
constexpr int panels = tile_rows / panel_rows;  // vectors of outputs in a tile

FORETOKEN_AVX2_INLINE __m256i load_words(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

FORETOKEN_AVX2_INLINE __m256 widen_halves(const std::byte* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

void integer_tile(const integer_stream& tile,
                  const integer_form& form,
                  const activations::storage& x,
                  row_range rows,
                  tile_output out);

}  // namespace foretoken::cpu::avx2
