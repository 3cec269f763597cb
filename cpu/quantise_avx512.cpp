// SPDX-License-Identifier: Apache-2.0
// Activations as planes of bytes, with AVX-512: see linear_kernels.hpp.

#if defined(__x86_64__)

#include "cpu/linear_avx512.hpp"

namespace foretoken::cpu {
namespace {

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

// What sums of products begin with, of a plane whose quants have these sums of 16 and count
// `power`: the bits of a float whose last bit is worth `power`, in the middle of its binade.
// Integers up to 2^22 added to these bits are added to the float's value, times power; so a sum
// needs neither conversion nor multiplication. From it are taken what types subtract whose
// weights have an offset: eight starts, in the order of start_of().
FORETOKEN_AVX512_INLINE void put_starts(float power, __m128i half_sums, std::int32_t* to) {
  constexpr int middle = (23 << 23) + (1 << 22);
  const int start = power > 0 ? __builtin_bit_cast(int, power) + middle
                              : __builtin_bit_cast(int, power == 0 ? 1.0f : power);
  const __m128i whole = _mm_add_epi32(half_sums, _mm_srli_epi64(half_sums, 32));
  const __m256i sums =  // first half, second half, both
      _mm256_castsi128_si256(_mm_unpacklo_epi64(half_sums, _mm_move_epi64(whole)));
  const __m256i which = _mm256_setr_epi32(0, 2, 2, 2, 0, 1, 0, 1);
  const __m256i shift = _mm256_setr_epi32(32, 3, 4, 7, 2, 2, 5, 5);  // 32: nothing is left
  const __m256i offsets = _mm256_sllv_epi32(_mm256_permutevar8x32_epi32(sums, which), shift);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_sub_epi32(_mm256_set1_epi32(start), offsets));
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
  const block_scale scale = scale_for(bits, to.planes);
  __m512i q0 = _mm512_setzero_si512();
  __m512i q1 = q0;
  if (scale.power > 0) {
    const __m512 inverse = _mm512_set1_ps(1.0f / scale.value());
    q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
    q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
  }
  const auto planes = static_cast<std::size_t>(to.planes);
  auto* q = reinterpret_cast<__m256i*>(to.bytes + at * block_columns * planes);
  std::int32_t* starts = to.starts + 8 * planes * at;
  const __m256i low = low_bytes(q0, q1);  // in [-128, 127]
  const __m128i low_sums = sum_halves(low);
  __m128i sums = low_sums;
  if (planes == 2) {
    const __m512i round = _mm512_set1_epi32(128);
    const __m256i high = low_bytes(_mm512_srai_epi32(_mm512_add_epi32(q0, round), 8),
                                   _mm512_srai_epi32(_mm512_add_epi32(q1, round), 8));
    const __m128i high_sums = sum_halves(high);
    _mm256_storeu_si256(q++, high);
    put_starts(256 * scale.power, high_sums, starts);
    starts += 8;
    sums = _mm_add_epi32(sums, _mm_slli_epi32(high_sums, 8));
  }
  _mm256_storeu_si256(q, low);
  put_starts(scale.power, low_sums, starts);
  to.put_block(at, scale, _mm_cvtsi128_si32(sums), _mm_extract_epi32(sums, 1));
}

}  // namespace

FORETOKEN_AVX512 void avx512::quantise(const activations::storage& to,
                                       std::size_t at,
                                       const float* x,
                                       int blocks) {
  for (int b = 0; b < blocks; ++b)
    quantise_block(to, at + static_cast<std::size_t>(b), x + b * block_columns);
}

}  // namespace foretoken::cpu

#endif
