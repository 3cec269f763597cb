// SPDX-License-Identifier: Apache-2.0
// The row kernels over v16, one text for every path. Every sum runs in sixteen lanes that are added
// in one fixed tree at the end, so its bits depend on the row alone.

// The last n % 16 values, zeros behind them.
inline v16 load_part(const float* p, int count) {
  float lane[16] = {};
  for (int i = 0; i < count; ++i) lane[i] = p[i];
  return load(lane);
}
inline void store_part(float* p, v16 x, int count) {
  float lane[16];
  store(lane, x);
  for (int i = 0; i < count; ++i) p[i] = lane[i];
}
inline v16 load_some(const float* p, int count) {
  return count >= 16 ? load(p) : load_part(p, count);
}
inline void store_some(float* p, v16 x, int count) {
  if (count >= 16) return store(p, x);
  store_part(p, x, count);
}

// e^x, relative error about 1e-7; below -87 it is e^-87, a NaN stays one. Degree 6 Taylor on |r| <=
// ln2/2.
inline v16 exponential(v16 x) {
  const v16 bounded = min(set1(88.0f), max(set1(-87.0f), x));
  const v16 n = nearest(bounded * set1(1.44269504f));
  v16 r = fma(n, set1(-0.693359375f), bounded);
  r = fma(n, set1(2.12194440e-4f), r);
  v16 p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return p * power_of_two(n);
}

// tanh y = 1 - 2 / (e^2y + 1); absolute error about 1e-7, which is what a gate or a cap needs.
inline v16 hyperbolic_tangent(v16 y) {
  return set1(1.0f) - set1(2.0f) / (exponential(y + y) + set1(1.0f));
}

inline v16 gelu_of(v16 x) {
  const v16 cubic = fma(x * x * x, set1(0.044715f), x);
  return set1(0.5f) * x * (set1(1.0f) + hyperbolic_tangent(cubic * set1(0.7978845608f)));
}

void rms_norm(const float* x, const float* weight, int n, float epsilon, float* out) {
  v16 squares = set1(0);
  for (int i = 0; i < n; i += 16) {
    const v16 part = load_some(x + i, n - i);
    squares = fma(part, part, squares);
  }
  const float mean = sum_lanes(squares) / static_cast<float>(n);
  const v16 scale = set1(1.0f / __builtin_sqrtf(mean + epsilon));
  for (int i = 0; i < n; i += 16) {
    const v16 part = load_some(x + i, n - i) * scale;
    store_some(out + i, part * load_some(weight + i, n - i), n - i);
  }
}

void layer_norm(
    const float* x, const float* weight, const float* bias, int n, float epsilon, float* out) {
  v16 sum = set1(0);
  for (int i = 0; i < n; i += 16) sum = sum + load_some(x + i, n - i);
  const v16 mean = set1(sum_lanes(sum) / static_cast<float>(n));
  v16 squares = set1(0);
  for (int i = 0; i < n; i += 16) {
    const int end = n - i < 16 ? n - i : 16;
    const v16 away = keep(load_some(x + i, n - i) - mean, 0, end, set1(0));
    squares = fma(away, away, squares);
  }
  const float variance = sum_lanes(squares) / static_cast<float>(n);
  const v16 scale = set1(1.0f / __builtin_sqrtf(variance + epsilon));
  for (int i = 0; i < n; i += 16) {
    const v16 part = (load_some(x + i, n - i) - mean) * scale;
    const v16 scaled = part * load_some(weight + i, n - i);
    store_some(out + i, scaled + (bias ? load_some(bias + i, n - i) : set1(0)), n - i);
  }
}

inline v16 silu_of(v16 x) {
  return x / (set1(1.0f) + exponential(set1(0) - x));
}

void silu_gate(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += 16) {
    const v16 gated = silu_of(load_some(gate + i, n - i));
    store_some(out + i, gated * load_some(up + i, n - i), n - i);
  }
}

void gelu_gate(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += 16) {
    const v16 gated = gelu_of(load_some(gate + i, n - i));
    store_some(out + i, gated * load_some(up + i, n - i), n - i);
  }
}

void silu_gate_tile(float* tile, int rows) {
  for (float* y = tile; y != tile + 64 * rows; y += 64) {
    store(y, silu_of(load(y)) * load(y + 16));
    store(y + 16, silu_of(load(y + 32)) * load(y + 48));
  }
}

void gelu_gate_tile(float* tile, int rows) {
  for (float* y = tile; y != tile + 64 * rows; y += 64) {
    store(y, gelu_of(load(y)) * load(y + 16));
    store(y + 16, gelu_of(load(y + 32)) * load(y + 48));
  }
}

void gelu(float* x, int n) {
  for (int i = 0; i < n; i += 16) store_some(x + i, gelu_of(load_some(x + i, n - i)), n - i);
}

void softcap(float* x, int n, float cap) {
  for (int i = 0; i < n; i += 16) {
    const v16 y = load_some(x + i, n - i) / set1(cap);
    store_some(x + i, set1(cap) * hyperbolic_tangent(y), n - i);
  }
}

int to_half(const float* x, int n, std::uint16_t* out) {
  int clamped = 0;
  for (int i = 0; i < n; i += 16) {
    const int count = n - i < 16 ? n - i : 16;
    const v16 part = load_some(x + i, count);
    for (int k = 0; k < count; ++k) clamped += __builtin_fabsf(x[i + k]) > 65504.0f;
    std::uint16_t lane[16];
    store_half(lane, min(set1(65504.0f), max(set1(-65504.0f), part)));
    for (int k = 0; k < count; ++k) out[i + k] = lane[k];
  }
  return clamped;
}

int to_bf16(const float* x, int n, std::uint16_t* out) {
  constexpr float largest = 0x1.FEp127f;
  int clamped = 0;
  for (int i = 0; i < n; i += 16) {
    const int count = n - i < 16 ? n - i : 16;
    const v16 part = load_some(x + i, count);
    for (int k = 0; k < count; ++k) clamped += __builtin_fabsf(x[i + k]) > largest;
    std::uint16_t lane[16];
    store_bf16(lane, min(set1(largest), max(set1(-largest), part)));
    for (int k = 0; k < count; ++k) out[i + k] = lane[k];
  }
  return clamped;
}

float to_int8(const float* x, int n, std::int8_t* out) {
  v16 largest = set1(0);
  v16 poison = set1(0);  // x * 0 is a NaN for what is not finite
  for (int i = 0; i < n; i += 16) {
    const v16 part = load_some(x + i, n - i);
    largest = max(largest, max(part, set1(0) - part));
    poison = fma(part, set1(0), poison);
  }
  const float most = max_lanes(largest) + sum_lanes(poison);
  const v16 inverse = set1(most > 1e-30f ? 127.0f / most : 0.0f);
  for (int i = 0; i < n; i += 16) {
    const int count = n - i < 16 ? n - i : 16;
    std::int8_t lane[16];
    store_int8(lane, nearest(load_some(x + i, count) * inverse));
    for (int k = 0; k < count; ++k) out[i + k] = lane[k];
  }
  return most / 127.0f;
}

void scale_spread(
    const std::byte* scales, std::size_t stride, const float* energies, int blocks, float* out) {
  v16 sums[4] = {set1(0), set1(0), set1(0), set1(0)};
  for (int b = 0; b < blocks; ++b, scales += stride) {
    const v16 energy = set1(energies[b]);
    const auto* from = reinterpret_cast<const std::uint16_t*>(scales);
    for (v16& sum : sums) {
      const v16 scale = load_half(from);
      sum = fma(scale * scale, energy, sum);
      from += 16;
    }
  }
  for (const v16& sum : sums) {
    store(out, root(sum));
    out += 16;
  }
}

// Sixteen halves or floats of a vector of scales.
inline v16 load_scales(const std::byte* from, bool wide, int index) {
  if (wide) return load(reinterpret_cast<const float*>(from) + index);
  return load_half(reinterpret_cast<const std::uint16_t*>(from) + index);
}

inline v16 load_weights(const matrix_column& from, int index) {
  using form = matrix_column::form;
  if (from.values == form::f32) return load(reinterpret_cast<const float*>(from.first) + index);
  const auto* halves = reinterpret_cast<const std::uint16_t*>(from.first);
  if (from.values == form::f16) return load_half(halves + index);
  if (from.values == form::bf16) {
    float lane[16];
    for (int i = 0; i < 16; ++i) lane[i] = bf16_to_float(halves[index + i]);
    return load(lane);
  }
  const v16 quants = load_byte_of(from.first + 4 * index, from.byte);
  const v16 centred = quants - set1(static_cast<float>(from.offset));
  const v16 scaled = centred * load_scales(from.scales, from.wide_scales, index);
  return from.minima ? scaled + load_scales(from.minima, from.wide_scales, index) : scaled;
}

void read_column(const matrix_column& from, float* w) {
  for (int i = 0; i < 64; i += 16) store(w + i, load_weights(from, i));
}

void add_column(const float* w, float x, float* y) {
  for (int i = 0; i < 64; i += 16) store(y + i, fma(load(w + i), set1(x), load(y + i)));
}

value_range largest_of(const float* y, const float* errors, float unit, int count) {
  const v16 least = set1(-__builtin_inff());
  v16 low = least, high = least;
  v16 poison = set1(0);  // x * 0 is a NaN for what is not finite
  for (int i = 0; i < count; i += 16) {
    const v16 value = load(y + i);
    const v16 error = load(errors + i) * set1(unit);
    v16 below = value - error, above = value + error, counted = above;
    if (const int end = count - i; end < 16) {
      counted = keep(above, 0, end, set1(0));
      below = keep(below, 0, end, least);
      above = keep(above, 0, end, least);
    }
    low = max(low, below);
    high = max(high, above);
    poison = fma(counted, set1(0), poison);
  }
  const float nothing = sum_lanes(poison);
  return {max_lanes(low) + nothing, max_lanes(high) + nothing};
}
