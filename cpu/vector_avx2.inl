// SPDX-License-Identifier: Apache-2.0
// Sixteen floats as two AVX2 registers. Included once, inside an unnamed namespace.
// A v16 is two registers of 16: the sums of one page or vector fill half of them.
constexpr int score_pages = 1;
constexpr int value_vectors = 1;

struct v16 {
  __m256 a, b;
};
inline v16 set1(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline v16 load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline void store(float* p, v16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline v16 load_half(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline void store_half(std::uint16_t* p, v16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8),
                   _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
// The first or second bf16 of 8 pairs, of 16.
inline __m256 eight_bf16_of(const std::uint16_t* pairs, bool second) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
  return _mm256_castsi256_ps(second ? _mm256_and_si256(both, high) : _mm256_slli_epi32(both, 16));
}
inline v16 load_bf16_of(const std::uint16_t* pairs, bool second) {
  return {eight_bf16_of(pairs, second), eight_bf16_of(pairs + 16, second)};
}
// Nearest even in the low halves; a NaN becomes the quiet one.
inline __m256i bf16_bits(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 kept = _mm256_blendv_ps(_mm256_castsi256_ps(rounded),
                                       _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000)), nan);
  return _mm256_srli_epi32(_mm256_castps_si256(kept), 16);
}
inline void store_bf16(std::uint16_t* p, v16 x) {
  const __m256i both = _mm256_packus_epi32(bf16_bits(x.a), bf16_bits(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(both, 0xD8));
}
inline __m256 eight_int8(const std::int8_t* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
inline v16 load_int8(const std::int8_t* p) {
  return {eight_int8(p), eight_int8(p + 8)};
}
// Whole numbers in [-127, 127]; a NaN becomes anything.
inline void store_int8(std::int8_t* p, v16 x) {
  const __m256i both = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)), 0xD8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
// Byte `index` of each of eight, of 16 groups of four.
inline __m256 eight_bytes_of(const std::byte* fours, int index) {
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(fours));
  const __m256i shifted = _mm256_srl_epi32(all, _mm_cvtsi32_si128(8 * index));
  return _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(255)));
}
inline v16 load_byte_of(const std::byte* fours, int index) {
  return {eight_bytes_of(fours, index), eight_bytes_of(fours + 32, index)};
}
inline v16 operator+(v16 x, v16 y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline v16 operator-(v16 x, v16 y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline v16 operator*(v16 x, v16 y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline v16 operator/(v16 x, v16 y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline v16 fma(v16 x, v16 y, v16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
// A NaN in y comes through.
inline v16 max(v16 x, v16 y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline v16 min(v16 x, v16 y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline v16 root(v16 x) {
  return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)};
}
inline v16 nearest(v16 x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
inline __m256 power_of_two(__m256 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
// 2^n for whole n in [-126, 127]
inline v16 power_of_two(v16 n) {
  return {power_of_two(n.a), power_of_two(n.b)};
}
inline __m256 lanes_between(int first, int end, __m256i index) {
  const __m256i low = _mm256_cmpgt_epi32(index, _mm256_set1_epi32(first - 1));
  return _mm256_castsi256_ps(
      _mm256_and_si256(low, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), index)));
}
// Lanes [first, end) of x, others from `other`.
inline v16 keep(v16 x, int first, int end, v16 other) {
  const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm256_blendv_ps(other.a, x.a, lanes_between(first, end, low)),
          _mm256_blendv_ps(other.b, x.b, lanes_between(first, end, high))};
}
inline float sum_lanes(v16 x) {
  float lane[16];
  store(lane, x);
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) lane[i] += lane[i + step];
  }
  return lane[0];
}

inline float max_lanes(v16 x) {
  float lane[16];
  store(lane, x);
  float best = lane[0];
  for (int i = 1; i < 16; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}
