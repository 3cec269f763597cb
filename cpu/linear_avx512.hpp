// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the AVX-512 (F, BW, DQ, VL, VNNI) matrix kernels share. Included by cpu/linear_avx512*.cpp
// only.

// GCC 12 sees sign conversions in constant pointer offsets of unrolled templates and uninitialised
// values in its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include "cpu/linear_kernels.hpp"

#define FORETOKEN_AVX512 \
  __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define FORETOKEN_AVX512_INLINE inline __attribute__((always_inline)) FORETOKEN_AVX512

namespace foretoken::cpu::avx512 {

constexpr int panels = tile_rows / 16;  // vectors of 16 outputs in a tile

FORETOKEN_AVX512_INLINE __m512 widen_halves(const std::byte* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

void quantise(const activations::storage& to, const block_walk& walk);

void float_tile(const std::byte* values,
                int columns,
                float_form form,
                const activations::storage& x,
                row_range rows,
                tile_output out);

}  // namespace foretoken::cpu::avx512
