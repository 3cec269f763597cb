// SPDX-License-Identifier: Apache-2.0
// Sixteen floats on AVX-512. Included once, inside an unnamed namespace.
// 32 registers hold the sums of four pages, or of 64 values, of four queries.
constexpr int score_pages = 4;
constexpr int value_vectors = 4;

struct v16 {
  __m512 v;
};
inline v16 set1(float x) {
  return {_mm512_set1_ps(x)};
}
inline v16 load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
inline void store(float* p, v16 x) {
  _mm512_storeu_ps(p, x.v);
}
inline v16 load_half(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_half(std::uint16_t* p, v16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
// The first or second bf16 of 16 pairs.
inline v16 load_bf16_of(const std::uint16_t* pairs, bool second) {
  const __m512i both = _mm512_loadu_si512(pairs);
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
  return {_mm512_castsi512_ps(second ? _mm512_and_si512(both, high) : _mm512_slli_epi32(both, 16))};
}
// Nearest even; a NaN becomes the quiet one.
inline void store_bf16(std::uint16_t* p, v16 x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_blend_epi32(nan, rounded, _mm512_set1_epi32(0x7FC00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}
inline v16 load_int8(const std::int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
// Whole numbers in [-127, 127]; a NaN becomes anything.
inline void store_int8(std::int8_t* p, v16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)));
}
// Byte `index` of each of 16 groups of four.
inline v16 load_byte_of(const std::byte* fours, int index) {
  const __m512i shifted = _mm512_srl_epi32(_mm512_loadu_si512(fours), _mm_cvtsi32_si128(8 * index));
  return {_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)))};
}
inline v16 operator+(v16 a, v16 b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline v16 operator-(v16 a, v16 b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline v16 operator*(v16 a, v16 b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline v16 operator/(v16 a, v16 b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline v16 fma(v16 a, v16 b, v16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// A NaN in b comes through.
inline v16 max(v16 a, v16 b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline v16 min(v16 a, v16 b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline v16 root(v16 x) {
  return {_mm512_sqrt_ps(x.v)};
}
inline v16 nearest(v16 x) {
  return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT)};
}
// 2^n for whole n in [-126, 127]
inline v16 power_of_two(v16 n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
// Lanes [first, end) of x, others from `other`.
inline v16 keep(v16 x, int first, int end, v16 other) {
  const auto bits = ((1u << end) - 1u) & ~((1u << first) - 1u);
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), other.v, x.v)};
}
// Lane i and the one 8, 4, 2 and 1 behind it: one fixed tree.
inline float sum_lanes(v16 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Of numbers; whether a NaN comes through is not said.
inline float max_lanes(v16 x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
