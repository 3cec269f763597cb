// SPDX-License-Identifier: Apache-2.0
// Activations as planes of bytes, with AVX-512: see linear_kernels.hpp.
//
// Sixteen blocks at a time, in passes: the largest magnitudes, all scales in vectors (a division
// takes as long for 16 as for one), the quants, what is kept of the blocks in vectors. So no block
// waits for its own division. Bound by instructions: about 50 a block in fast, 80 in exact.

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>

#include "cpu/linear_avx512.hpp"

namespace foretoken::cpu {
namespace {

constexpr int batch_blocks = 16;

// What is known of a batch of blocks, a lane each.
struct alignas(64) batch {
  std::uint32_t largest[batch_blocks];
  float inverses[batch_blocks];
  float powers[batch_blocks];
  float scales[batch_blocks];
  std::int32_t factors[batch_blocks];
  std::int32_t half_sums[2][batch_blocks][2];  // [plane][block][half], high first
};

FORETOKEN_AVX512_INLINE std::uint32_t largest_of(const float* x) {
  const __m512i sign_off = _mm512_set1_epi32(0x7FFFFFFF);
  const __m512i x0 = _mm512_and_si512(_mm512_loadu_si512(x), sign_off);
  const __m512i x1 = _mm512_and_si512(_mm512_loadu_si512(x + 16), sign_off);
  return _mm512_reduce_max_epu32(_mm512_max_epu32(x0, x1));
}

// scale_for(), for 16 blocks.
FORETOKEN_AVX512_INLINE void put_scales(batch& to, int planes) {
  const __m512i largest = _mm512_load_si512(to.largest);
  const __m512 quant_max = _mm512_set1_ps(planes == 2 ? exact_quant_max : fast_quant_max);
  const __m512i least = _mm512_castps_si512(_mm512_div_ps(_mm512_castsi512_ps(largest), quant_max));
  const int step = planes == 2 ? 1 << 23 : 1 << 21;
  __m512i up = _mm512_add_epi32(least, _mm512_set1_epi32(step - 1));
  up = _mm512_and_si512(up, _mm512_set1_epi32(-step));
  const __m512i power = _mm512_and_si512(up, _mm512_set1_epi32(0x7F800000));
  const __m512i factor = _mm512_and_si512(_mm512_srli_epi32(up, 21), _mm512_set1_epi32(3));
  const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1), _mm512_castsi512_ps(up));
  const __mmask16 usual =
      _mm512_cmplt_epu32_mask(largest, _mm512_set1_epi32(magnitude_limit)) &
      _mm512_cmp_ps_mask(_mm512_castsi512_ps(largest), _mm512_set1_ps(magnitude_least), _CMP_GE_OQ);
  const __mmask16 poison = _mm512_cmpge_epu32_mask(largest, _mm512_set1_epi32(magnitude_limit));
  const __m512i others = _mm512_maskz_set1_epi32(poison, 0x7FC00000);  // NaN, or 0
  _mm512_store_ps(to.inverses, _mm512_maskz_mov_ps(usual, inverse));
  _mm512_store_si512(to.powers, _mm512_mask_mov_epi32(others, usual, power));
  _mm512_store_si512(to.scales, _mm512_mask_mov_epi32(others, usual, up));
  _mm512_store_si512(to.factors, _mm512_maskz_mov_epi32(usual, factor));
}

// The low bytes of 32 whole numbers, and the sums of their halves.
FORETOKEN_AVX512_INLINE void put_plane(__m512i first,
                                       __m512i second,
                                       std::int8_t* bytes,
                                       std::int32_t* half_sums) {
  constexpr int shift = 128;  // makes them unsigned
  const __m256i low = _mm256_set_m128i(_mm512_cvtepi32_epi8(second), _mm512_cvtepi32_epi8(first));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), low);
  const __m256i above = _mm256_xor_si256(low, _mm256_set1_epi8(static_cast<char>(-shift)));
  const __m256i eights = _mm256_sad_epu8(above, _mm256_setzero_si256());
  const __m256i halves = _mm256_add_epi64(eights, _mm256_unpackhi_epi64(eights, eights));
  const __m128i both =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  _mm_storeu_si64(half_sums, _mm_sub_epi32(both, _mm_set1_epi32(16 * shift)));
}

// See quantise() in linear_portable.cpp: the same operations.
template <int Planes>
FORETOKEN_AVX512_INLINE void put_quants(
    const float* x, float by, int i, std::int8_t* q, batch& to) {
  const __m512 inverse = _mm512_set1_ps(by);
  const __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), inverse));
  const __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), inverse));
  put_plane(q0, q1, q + (Planes - 1) * block_columns, to.half_sums[Planes - 1][i]);
  if constexpr (Planes == 1) return;
  const __m512i round = _mm512_set1_epi32(128);  // low bytes are in [-128, 127]
  put_plane(_mm512_srai_epi32(_mm512_add_epi32(q0, round), 8),
            _mm512_srai_epi32(_mm512_add_epi32(q1, round), 8), q, to.half_sums[0][i]);
}

// What sums of products begin with, of a plane whose quants count `power`: the bits of a float
// whose last bit is worth `power`, in the middle of its binade. Integers up to 2^22 added to these
// bits are added to the float's value, times power; so a sum needs neither conversion nor
// multiplication. For types whose weights have an offset, the start is less that many times the
// quants' sum, of both halves or one: in the order of start_of().
FORETOKEN_AVX512_INLINE void put_starts(float power,
                                        const std::int32_t (&half_sums)[2],
                                        std::int32_t* start,
                                        std::int32_t* offsets) {
  constexpr int middle = (23 << 23) + (1 << 22);
  const int bits = __builtin_bit_cast(int, power == 0 ? 1.0f : power);
  *start = power > 0 ? bits + middle : bits;
  const __m128i halves = _mm_loadu_si64(half_sums);
  const __m128i whole = _mm_add_epi32(halves, _mm_srli_epi64(halves, 32));
  const __m256i sums = _mm256_castsi128_si256(_mm_unpacklo_epi64(halves, whole));
  const __m256i which = _mm256_setr_epi32(2, 2, 2, 0, 0, 1, 0, 1);
  const __m256i shift = _mm256_setr_epi32(3, 4, 7, 0, 2, 2, 5, 5);
  const __m256i less = _mm256_sllv_epi32(_mm256_permutevar8x32_epi32(sums, which), shift);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(offsets),
                      _mm256_sub_epi32(_mm256_set1_epi32(*start), less));
}

template <int Planes>
FORETOKEN_AVX512_INLINE void put_batch(const activations::storage& to,
                                       const block_walk& walk,
                                       batch& all,
                                       int count) {
  for (int i = 0; i < count; ++i) all.largest[i] = largest_of(walk.values(i));
  put_scales(all, Planes);
  for (int i = 0; i < count; ++i) {
    std::int8_t* const q = to.bytes + walk.block(i) * block_columns * Planes;
    put_quants<Planes>(walk.values(i), all.inverses[i], i, q, all);
  }
  for (int i = 0; i < count; ++i) {
    const std::size_t at = walk.block(i);
    std::int32_t sums[2] = {all.half_sums[0][i][0], all.half_sums[0][i][1]};
    for (int p = 0; p < Planes; ++p) {
      const float power = p + 1 < Planes ? 256 * all.powers[i] : all.powers[i];
      put_starts(power, all.half_sums[p][i], to.starts + at * Planes + p,
                 to.offset_starts + (at * Planes + p) * 8);
    }
    if constexpr (Planes == 2) {
      for (int half = 0; half < 2; ++half) {
        sums[half] = 256 * sums[half] + all.half_sums[1][i][half];
      }
    }
    to.factors[at] = static_cast<std::uint8_t>(all.factors[i]);
    to.put_sums(at, all.scales[i], sums[0], sums[1]);
  }
}

template <int Planes>
FORETOKEN_AVX512 void put_all(const activations::storage& to, block_walk walk) {
  batch all{};
  while (walk.count > 0) {
    const int taken = std::min(walk.count, batch_blocks);
    put_batch<Planes>(to, walk, all, taken);
    walk.skip(taken);
  }
}

}  // namespace

void avx512::quantise(const activations::storage& to, const block_walk& walk) {
  return to.planes == 2 ? put_all<2>(to, walk) : put_all<1>(to, walk);
}

}  // namespace foretoken::cpu

#endif
