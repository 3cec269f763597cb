// SPDX-License-Identifier: Apache-2.0
// Activations as planes of bytes, with AVX-512: see linear_kernels.hpp.
//
// Sixteen blocks at a time, in passes: the largest magnitudes, all scales in vectors (a division
// takes as long for 16 as for one), the quants, what is kept of the blocks in vectors. So no block
// waits for its own division. With many rows it is bound by the lines of cache that it takes from
// the other threads: one array of records instead of five arrays, and offset starts only where they
// are read, made prefill of 128 tokens 4 % faster in fast and 7 in exact, of 512 tokens 6 % in fast
// (medians of 5 paired runs of foretoken bench, EPYC Zen 5, 2 threads, 2026-11-30).

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
  block_terms terms[4][batch_blocks / 4];
  float scaled_halves[2][batch_blocks];
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

// What sums of products begin with, of planes whose quants count `powers`: the bits of a float
// whose last bit is worth `power`, in the middle of its binade. Integers up to 2^22 added to these
// bits are added to the float's value, times power; so a sum needs neither conversion nor
// multiplication.
FORETOKEN_AVX512_INLINE __m512i starts_of(__m512 powers) {
  const __m512i middle = _mm512_set1_epi32((23 << 23) + (1 << 22));
  const __m512 zero = _mm512_setzero_ps();
  const __mmask16 positive = _mm512_cmp_ps_mask(powers, zero, _CMP_GT_OQ);
  const __mmask16 nothing = _mm512_cmp_ps_mask(powers, zero, _CMP_EQ_OQ);
  const __m512i bits = _mm512_castps_si512(_mm512_mask_mov_ps(powers, nothing, _mm512_set1_ps(1)));
  return _mm512_mask_add_epi32(bits, positive, bits, middle);
}

// For types whose weights have an offset, the start is less that many times the quants' sum, of
// both halves or one: in the order of start_of().
FORETOKEN_AVX512_INLINE void put_offset_starts(std::int32_t start,
                                               const std::int32_t (&half_sums)[2],
                                               std::int32_t* to) {
  const __m128i halves = _mm_loadu_si64(half_sums);
  const __m128i whole = _mm_add_epi32(halves, _mm_srli_epi64(halves, 32));
  const __m256i sums = _mm256_castsi128_si256(_mm_unpacklo_epi64(halves, whole));
  const __m256i which = _mm256_setr_epi32(2, 2, 2, 0, 0, 1, 0, 1);
  const __m256i shift = _mm256_setr_epi32(3, 4, 7, 0, 2, 2, 5, 5);
  const __m256i less = _mm256_sllv_epi32(_mm256_permutevar8x32_epi32(sums, which), shift);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_sub_epi32(_mm256_set1_epi32(start), less));
}

// The sums of all blocks' first or second halves: of a plane, of whole quants.
FORETOKEN_AVX512_INLINE __m512i plane_sums(const batch& all, int plane, int half) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i which = _mm512_add_epi32(even, _mm512_set1_epi32(half));
  const std::int32_t* const from = all.half_sums[plane][0];
  return _mm512_permutex2var_epi32(_mm512_load_si512(from), which, _mm512_load_si512(from + 16));
}

template <int Planes>
FORETOKEN_AVX512_INLINE __m512i sums_of(const batch& all, int half) {
  const __m512i first = plane_sums(all, 0, half);
  if constexpr (Planes == 1) return first;
  return _mm512_add_epi32(_mm512_slli_epi32(first, 8), plane_sums(all, 1, half));
}

// The terms of a batch, and in passing what its starts and halves need. Block i's are
// terms[i % 4][i / 4].
template <int Planes>
FORETOKEN_AVX512_INLINE void put_terms(batch& all) {
  const __m512 powers = _mm512_load_ps(all.powers);
  const __m512 scales = _mm512_load_ps(all.scales);
  const __m512i first =
      starts_of(Planes == 2 ? _mm512_mul_ps(powers, _mm512_set1_ps(256)) : powers);
  const __m512i second = Planes == 2 ? starts_of(powers) : _mm512_load_si512(all.factors);
  const __m512i halves[2] = {sums_of<Planes>(all, 0), sums_of<Planes>(all, 1)};
  const __m512i quants = _mm512_add_epi32(halves[0], halves[1]);
  const __m512i sums = _mm512_castps_si512(_mm512_mul_ps(scales, _mm512_cvtepi32_ps(quants)));
  const __m512i scale_bits = _mm512_castps_si512(scales);
  const __m512i starts_low = _mm512_unpacklo_epi32(first, second);
  const __m512i starts_high = _mm512_unpackhi_epi32(first, second);
  const __m512i rest_low = _mm512_unpacklo_epi32(sums, scale_bits);
  const __m512i rest_high = _mm512_unpackhi_epi32(sums, scale_bits);
  _mm512_store_si512(all.terms[0], _mm512_unpacklo_epi64(starts_low, rest_low));
  _mm512_store_si512(all.terms[1], _mm512_unpackhi_epi64(starts_low, rest_low));
  _mm512_store_si512(all.terms[2], _mm512_unpacklo_epi64(starts_high, rest_high));
  _mm512_store_si512(all.terms[3], _mm512_unpackhi_epi64(starts_high, rest_high));
  for (int half = 0; half < 2; ++half) {
    const __m512 sum = _mm512_mul_ps(scales, _mm512_cvtepi32_ps(halves[half]));
    _mm512_store_ps(all.scaled_halves[half], sum);
  }
}

// What only matrices with groups read of block i.
template <int Planes>
FORETOKEN_AVX512_INLINE void put_groups(const activations::storage& to,
                                        std::size_t at,
                                        const batch& all,
                                        int i) {
  const block_terms& terms = all.terms[i % 4][i / 4];
  for (int p = 0; p < Planes; ++p) {
    put_offset_starts(p == 0 ? terms.start : terms.second, all.half_sums[p][i],
                      to.offset_starts + (at * Planes + static_cast<std::size_t>(p)) * 8);
  }
  to.half_sums[2 * at] = all.scaled_halves[0][i];
  to.half_sums[2 * at + 1] = all.scaled_halves[1][i];
}

template <int Planes>
FORETOKEN_AVX512_INLINE void put_batch(const activations::storage& to,
                                       const block_walk& walk,
                                       batch& all,
                                       int count) {
  constexpr std::size_t record_bytes = sizeof(block_terms) + Planes * block_columns;
  for (int i = 0; i < count; ++i) all.largest[i] = largest_of(walk.values(i));
  put_scales(all, Planes);
  for (int i = 0; i < count; ++i) {
    std::byte* const quants = to.records + walk.block(i) * record_bytes + sizeof(block_terms);
    put_quants<Planes>(walk.values(i), all.inverses[i], i, reinterpret_cast<std::int8_t*>(quants),
                       all);
  }
  put_terms<Planes>(all);
  for (int i = 0; i < count; ++i) {
    std::memcpy(to.records + walk.block(i) * record_bytes, &all.terms[i % 4][i / 4],
                sizeof(block_terms));
  }
  if (to.half_sums == nullptr) return;
  for (int i = 0; i < count; ++i) put_groups<Planes>(to, walk.block(i), all, i);
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
