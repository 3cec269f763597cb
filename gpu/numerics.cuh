// SPDX-License-Identifier: Apache-2.0
#pragma once
// The arithmetic that every kernel path shares, so that a row has the same bits on each of them.
// Compiled without contraction (-fmad=false): a fused multiply-add is written where one is meant.
//
// Linear layers: inputs are f16, rounded once and clamped; products are m16n8k16 f16 into f32; K is
// padded with zeros to whole 64s and cut in 4 segments; in a segment the k-steps ascend from zero;
// y = (((s0 + s1) + s2) + s3) * scale of the row [* row scale of the weight] [+ bias].
// RMS norm: the input is f16(x * gain), the row's scale 1 / rms. Sums of squares go by tiles of 16
// features (tile_squares), tiles by lane_order_sum. Other inputs have the scale 1.
// Attention: chunks of 64 absolute positions, spans of 4 chunks, both folded ascending
// (attention.cu).

#include "gpu/device.cuh"

namespace foretoken::gpu {

constexpr float half_largest = 65504.0f;

FORETOKEN_DEVICE float power_of_two(int e) {  // -126 <= e <= 127
  return bits_float(static_cast<std::uint32_t>(e + 127) << 23);
}

FORETOKEN_DEVICE float warp_sum(float v) {
  FORETOKEN_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) v += shuffle_xor(v, mask);
  return v;
}
FORETOKEN_DEVICE float warp_max(float v) {
  FORETOKEN_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) v = larger(v, shuffle_xor(v, mask));
  return v;
}

FORETOKEN_DEVICE float natural_exp(float x) {
  return exp2_fast(x * 1.44269504f);
}

FORETOKEN_DEVICE float silu(float x) {
  return x / (1.0f + natural_exp(-x));
}

// tanh(u) = 1 - 2 / (exp(2u) + 1)
FORETOKEN_DEVICE float tanh_of(float u) {
  return 1.0f - 2.0f / (natural_exp(2.0f * u) + 1.0f);
}

FORETOKEN_DEVICE float gelu_tanh(float x) {
  const float cube = x * x * x;
  return 0.5f * x * (1.0f + tanh_of(0.797884561f * fused_multiply_add(0.044715f, cube, x)));
}

FORETOKEN_DEVICE float soft_cap(float x, float cap) {
  return cap * tanh_of(x / cap);
}

FORETOKEN_DEVICE float saturated(float x) {
  return larger(-half_largest, smaller(half_largest, x));
}
FORETOKEN_DEVICE std::uint32_t stored_pair(float low, float high) {
  return half_pair(saturated(low), saturated(high));
}

// An input of a product: clamped, then rounded once.
FORETOKEN_DEVICE std::uint16_t product_input(float v) {
  return half_of(saturated(v));
}

// Sums over a row in shared or device memory by one warp: lane l takes l, l + 32, ...
FORETOKEN_DEVICE float row_sum_of_squares(const float* row, int n, int lane) {
  float sum = 0;
  for (int i = lane; i < n; i += 32) sum = fused_multiply_add(row[i], row[i], sum);
  return warp_sum(sum);
}
FORETOKEN_DEVICE float row_mean(const float* row, int n, int lane) {
  float sum = 0;
  for (int i = lane; i < n; i += 32) sum += row[i];
  return warp_sum(sum) / static_cast<float>(n);
}
FORETOKEN_DEVICE float row_squared_deviation(const float* row, int n, float mean, int lane) {
  float sum = 0;
  for (int i = lane; i < n; i += 32) {
    const float away = row[i] - mean;
    sum = fused_multiply_add(away, away, sum);
  }
  return warp_sum(sum);
}
// Squares of 16 neighbouring features, those of i and i + 8 in one lane, i + 1 Apart lanes further:
// (s[i] + s[i+8]), then over i 1, 2 and 4 apart. The sum in all eight lanes.
template <int Apart = 1>
FORETOKEN_DEVICE float tile_squares(float low, float high) {
  float sum = low * low + high * high;
  sum += shuffle_xor(sum, Apart);
  sum += shuffle_xor(sum, 2 * Apart);
  sum += shuffle_xor(sum, 4 * Apart);
  return sum;
}
// Lane l adds elements l, l + 32, ... ascending; then the warp's tree.
FORETOKEN_DEVICE float lane_order_sum(const float* values, int n, int lane) {
  float sum = 0;
  for (int i = lane; i < n; i += 32) sum += values[i];
  return warp_sum(sum);
}
FORETOKEN_DEVICE float inverse_root(float sum, int n, float epsilon) {
  return 1.0f / sqrtf(sum / static_cast<float>(n) + epsilon);
}
FORETOKEN_DEVICE float normed(float x, float inverse, float weight) {
  return (x * inverse) * weight;
}

struct rotated_pair {
  float a, b;
};
FORETOKEN_DEVICE rotated_pair rotate(float a, float b, float cosine, float sine) {
  return {a * cosine - b * sine, a * sine + b * cosine};
}

// Where a value stands in its page, in halves from the start of the head's keys (or values): the A
// fragments of the two products. keys: A[token][d], values: A[d][token].
// Inside one 16 x 16 fragment: 8 halves a lane, lane = row % 8 * 4 + column % 8 / 2, register =
// row / 8 + 2 (column / 8). The row's part and the column's part add up.
FORETOKEN_DEVICE int fragment_row(int row) {
  return row % 8 * 32 + row / 8 * 2;
}
FORETOKEN_DEVICE int fragment_column(int column) {
  return column % 8 / 2 * 8 + column / 8 * 4 + column % 2;
}
FORETOKEN_DEVICE int fragment_offset(int row, int column) {
  return fragment_row(row) + fragment_column(column);
}
FORETOKEN_DEVICE int key_dimension(int d) {
  return d / 16 * 256 + fragment_column(d % 16);
}
FORETOKEN_DEVICE int value_dimension(int d) {
  return d / 16 * 256 + fragment_row(d % 16);
}
FORETOKEN_DEVICE int key_offset(int token, int d) {
  return key_dimension(d) + fragment_row(token);
}
FORETOKEN_DEVICE int value_offset(int token, int d) {
  return value_dimension(d) + fragment_column(token);
}

}  // namespace foretoken::gpu
