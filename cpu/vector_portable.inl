// SPDX-License-Identifier: Apache-2.0
// Sixteen floats in plain C++. Included once, inside an unnamed namespace.
// The compiler chooses the registers.
constexpr int score_pages = 1;
constexpr int value_vectors = 1;

struct v16 {
  float v[16];
};
#define FORETOKEN_LANES(expression)                     \
  v16 out;                                              \
  for (int i = 0; i < 16; ++i) out.v[i] = (expression); \
  return out
inline v16 set1(float x) {
  FORETOKEN_LANES(x);
}
inline v16 load(const float* p) {
  FORETOKEN_LANES(p[i]);
}
inline void store(float* p, v16 x) {
  for (int i = 0; i < 16; ++i) p[i] = x.v[i];
}
inline v16 load_half(const std::uint16_t* p) {
  FORETOKEN_LANES(f16_to_float(p[i]));
}
inline void store_half(std::uint16_t* p, v16 x) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_f16(x.v[i]);
}
// The first or second bf16 of 16 pairs.
inline v16 load_bf16_of(const std::uint16_t* pairs, bool second) {
  FORETOKEN_LANES(bf16_to_float(pairs[2 * i + (second ? 1 : 0)]));
}
inline void store_bf16(std::uint16_t* p, v16 x) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_bf16(x.v[i]);
}
inline v16 load_int8(const std::int8_t* p) {
  FORETOKEN_LANES(static_cast<float>(p[i]));
}
// Whole numbers in [-127, 127]; a NaN becomes anything.
inline void store_int8(std::int8_t* p, v16 x) {
  for (int i = 0; i < 16; ++i) {
    p[i] = x.v[i] == x.v[i] ? static_cast<std::int8_t>(x.v[i]) : std::int8_t{0};
  }
}
// Byte `index` of each of 16 groups of four.
inline v16 load_byte_of(const std::byte* fours, int index) {
  FORETOKEN_LANES(static_cast<float>(fours[4 * i + index]));
}
inline v16 operator+(v16 a, v16 b) {
  FORETOKEN_LANES(a.v[i] + b.v[i]);
}
inline v16 operator-(v16 a, v16 b) {
  FORETOKEN_LANES(a.v[i] - b.v[i]);
}
inline v16 operator*(v16 a, v16 b) {
  FORETOKEN_LANES(a.v[i] * b.v[i]);
}
inline v16 operator/(v16 a, v16 b) {
  FORETOKEN_LANES(a.v[i] / b.v[i]);
}
inline v16 fma(v16 a, v16 b, v16 c) {
  FORETOKEN_LANES(a.v[i] * b.v[i] + c.v[i]);
}
// A NaN in b comes through.
inline v16 max(v16 a, v16 b) {
  FORETOKEN_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
inline v16 min(v16 a, v16 b) {
  FORETOKEN_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}
inline v16 root(v16 x) {
  FORETOKEN_LANES(__builtin_sqrtf(x.v[i]));
}
// Adding and taking away 1.5 * 2^23 rounds |x| < 2^22 to a whole number.
inline v16 nearest(v16 x) {
  FORETOKEN_LANES((x.v[i] + 12582912.0f) - 12582912.0f);
}
// 2^n for whole n in [-126, 127]
inline v16 power_of_two(v16 n) {
  v16 out;
  for (int i = 0; i < 16; ++i) {
    // A NaN has no exponent; the caller's other factor carries it on.
    const int exponent = n.v[i] == n.v[i] ? static_cast<int>(n.v[i]) : 0;
    out.v[i] = std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
  }
  return out;
}
// Lanes [first, end) of x, others from `other`.
inline v16 keep(v16 x, int first, int end, v16 other) {
  FORETOKEN_LANES(i >= first && i < end ? x.v[i] : other.v[i]);
}
#undef FORETOKEN_LANES
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
