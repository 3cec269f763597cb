// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where queries, keys and values go: q in f16, scaled, row by row; k and v into their page.

#include "gpu/kv_page.cuh"

namespace foretoken::gpu {

struct head_placement {
  step_rows rows;
  std::uint16_t* q;   // [rows][heads * head_dim]
  std::uint16_t* kv;  // this layer's pages
  std::uint32_t* saturated;
  const float* angles;  // [context][2 * pairs]; null = no rope
  int heads, kv_heads, head_dim;
  int pairs;
  bool neighbours;
  float query_scale;
  kv_form form;

  FORETOKEN_DEVICE std::uint16_t stored(float v) const { return half_of(saturated_value(v)); }
  FORETOKEN_DEVICE float saturated_value(float v) const {
    const float clamped = ::foretoken::gpu::saturated(v);
    if (clamped != v && saturated != nullptr) atomic_add(saturated, 1);
    return clamped;
  }
  FORETOKEN_DEVICE std::uint16_t* page_of(int row, int kv_head) const {
    const int position = rows.position[row];
    const int page =
        rows.pages[wide(rows.table[row]) * wide(rows.table_stride) + wide(position / 16)];
    return kv + (wide(page) * wide(kv_heads) + wide(kv_head)) * kv_head_values(form, head_dim);
  }
  // The pair of dimensions that stands in rows g and g + 8 of tile t of a rotated head.
  FORETOKEN_DEVICE void dimensions(int t, int g, int& a, int& b) const {
    if (t * 8 < pairs) {
      const int i = t * 8 + g;
      a = neighbours ? 2 * i : i;
      b = neighbours ? 2 * i + 1 : i + pairs;
    } else {
      a = t * 16 + g;
      b = a + 8;
    }
  }
  // What place() needs and can be read early.
  struct kept {
    float cosine = 1, sine = 0;
    std::uint16_t* to = nullptr;  // the token's place among the keys or values of its page
  };
  // Head numbers: queries, then keys, then values.
  FORETOKEN_DEVICE void load(int head, int t, int g, int row, kept& k) const {
    const int position = rows.position[row];
    if (head < heads + kv_heads && t * 8 < pairs) {
      const float* at = angles + wide(position) * wide(2 * pairs);
      k.cosine = at[t * 8 + g];
      k.sine = at[pairs + t * 8 + g];
    }
    if (head < heads) return;
    const bool is_key = head < heads + kv_heads;
    k.to = page_of(row, head - heads - (is_key ? 0 : kv_heads)) +
           (is_key ? fragment_row(position % 16) : 16 * head_dim + fragment_column(position % 16));
  }
  // The pair's dimensions and, where it is a rotated one, its values afterwards.
  FORETOKEN_DEVICE void turn(
      int head, int t, int g, const kept& k, int& a, int& b, float& y0, float& y1) const {
    a = t * 16 + g;
    b = a + 8;
    if (head >= heads + kv_heads) return;
    dimensions(t, g, a, b);
    if (t * 8 >= pairs) return;
    const rotated_pair turned = rotate(y0, y1, k.cosine, k.sine);
    y0 = turned.a;
    y1 = turned.b;
  }
  FORETOKEN_DEVICE void place(
      int head, int t, int g, int row, const kept& k, float y0, float y1) const {
    int a, b;
    turn(head, t, g, k, a, b, y0, y1);
    if (head < heads) {
      std::uint16_t* to = q + (wide(row) * wide(heads) + wide(head)) * wide(head_dim);
      to[a] = product_input(y0 * query_scale);
      to[b] = product_input(y1 * query_scale);
    } else if (head < heads + kv_heads) {
      k.to[key_dimension(a)] = stored(y0);
      k.to[key_dimension(b)] = stored(y1);
    } else {
      k.to[value_dimension(a)] = stored(y0);
      k.to[value_dimension(b)] = stored(y1);
    }
  }
};

}  // namespace foretoken::gpu
