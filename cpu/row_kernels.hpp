// SPDX-License-Identifier: Apache-2.0
#pragma once
// What happens to one row of floats outside the matrix products: norms, gates, rotary embedding,
// attention. One table a path; within a path the bits of a row depend on that row only.

#include <cstddef>
#include <cstdint>

#include "base/ids.hpp"
#include "cpu/options.hpp"

namespace foretoken::cpu {

constexpr int head_dim_max = 512;     // the accumulators of attention stand on the stack
constexpr int attention_tile = 12;    // queries of one job; in bf16 so many share one pass
constexpr int attention_chunk = 128;  // positions between two looks at the running maximum

// Keys of a page and head lie as [head_dim][16], values as [16][padded]: a position block is one
// vector. In bf16 neighbours stand in pairs, as vdpbf16ps multiplies them: keys
// [head_dim / 2][16][2], values [8][padded][2].
constexpr int padded_dim(int head_dim) noexcept {
  return (head_dim + 15) / 16 * 16;
}

// A page of one head: keys, the 16 scales of int8, values, and their scales again.
constexpr int kv_value_bytes(kv_type type) noexcept {
  return type == kv_type::f32 ? 4 : type == kv_type::int8 ? 1 : 2;
}
constexpr int kv_scale_bytes(kv_type type) noexcept {
  return type == kv_type::int8 ? page_tokens * 4 : 0;
}
// Index of a key or value within its page.
constexpr int kv_key_index(kv_type type, int d, int slot) noexcept {
  return type == kv_type::bf16 ? (d / 2 * page_tokens + slot) * 2 + d % 2 : d * page_tokens + slot;
}
constexpr int kv_value_index(kv_type type, int padded, int d, int slot) noexcept {
  return type == kv_type::bf16 ? (slot / 2 * padded + d) * 2 + slot % 2 : slot * padded + d;
}
constexpr int kv_key_bytes(kv_type type, int head_dim) noexcept {
  const int rows = type == kv_type::bf16 ? (head_dim + 1) / 2 * 2 : head_dim;
  return page_tokens * rows * kv_value_bytes(type) + kv_scale_bytes(type);
}
constexpr int kv_head_bytes(kv_type type, int head_dim) noexcept {
  return kv_key_bytes(type, head_dim) + kv_key_bytes(type, padded_dim(head_dim));
}

struct attention_query {
  const float* q = nullptr;  // [head_dim]
  float* out = nullptr;      // [head_dim]
  int position = 0;
};

// Up to attention_tile queries of one sequence against one KV head.
struct attention_job {
  attention_query queries[attention_tile];
  int query_count = 0;
  const page_id* pages = nullptr;   // of the sequence, page i = positions 16i..
  const std::byte* base = nullptr;  // keys of this layer and head in page 0 of the pool
  // What the thread reads after this, in the same layer, and its first query's position: asked for
  // on the way. -1: nothing.
  const page_id* pages_after = nullptr;
  const std::byte* base_after = nullptr;
  int position_after = -1;
  std::size_t page_stride = 0;  // bytes from one page to the next
  int head_dim = 0;
  int window = 0;  // 0 = all
  float scale = 1;
  float softcap = 0;
  kv_type type = kv_type::f16;  // of keys and values; never automatic
  // Of bf16: queries and weights may be rounded to bf16 too, where products of pairs are faster.
  bool bf16_products = false;
};

// One column of a tile of 64 rows: floats, or quants that are a byte of every four.
struct matrix_column {
  enum class form { quants, f32, f16, bf16 };
  form values = form::f32;
  const std::byte* first = nullptr;   // floats, or the quants of four columns
  int byte = 0;                       // of four
  int offset = 0;                     // a weight is scale * (quant - offset) + minimum
  bool wide_scales = false;           // f32 instead of f16
  const std::byte* scales = nullptr;  // [64]
  const std::byte* minima = nullptr;  // [64], or null
};

// Between which values something lies; NaN when it is not finite.
struct value_range {
  float low = 0, high = 0;
};

struct row_kernels {
  const char* name;
  void (*rms_norm)(const float* x, const float* weight, int n, float epsilon, float* out);
  void (*layer_norm)(
      const float* x, const float* weight, const float* bias, int n, float epsilon, float* out);
  void (*silu_gate)(const float* gate, const float* up, int n, float* out);
  void (*gelu_gate)(const float* gate, const float* up, int n, float* out);
  // Rows of a tile of 16 gates, 16 ups, 16 gates, 16 ups; the 32 gated values take the row's front.
  void (*silu_gate_tile)(float* tile, int rows);
  void (*gelu_gate_tile)(float* tile, int rows);
  void (*gelu)(float* x, int n);
  void (*softcap)(float* x, int n, float cap);  // cap * tanh(x / cap)
  // Rounds to f16, clamping to the largest finite one; returns how many were clamped.
  int (*to_half)(const float* x, int n, std::uint16_t* out);
  int (*to_bf16)(const float* x, int n, std::uint16_t* out);  // the same for bf16
  // Rounds to whole multiples of the scale it returns, the largest |x| / 127. A value that is not
  // finite makes the scale a NaN.
  float (*to_int8)(const float* x, int n, std::int8_t* out);
  // out[n] = sqrt(sum over b of scale[b][n]^2 * energies[b]) for the 64 rows of a tile. The f16
  // scales of a block are 64 side by side, `stride` bytes behind those of the block before.
  void (*scale_spread)(
      const std::byte* scales, std::size_t stride, const float* energies, int blocks, float* out);
  // The weights of a column, and y[n] += w[n] * x, for the 64 rows of a tile.
  void (*read_column)(const matrix_column& from, float* w);
  void (*add_column)(const float* w, float x, float* y);
  // Where the largest of the first `count` values of a tile lies when y[n] is off by at most
  // unit * errors[n].
  value_range (*largest_of)(const float* y, const float* errors, float unit, int count);
  void (*attend)(const attention_job& job);
};

// Null when the CPU lacks the path.
const row_kernels* find_row_kernels(isa path) noexcept;
const row_kernels& row_kernels_portable() noexcept;
#if defined(__x86_64__)
const row_kernels& row_kernels_avx2() noexcept;
const row_kernels& row_kernels_avx512() noexcept;
#endif

}  // namespace foretoken::cpu
