// SPDX-License-Identifier: Apache-2.0
#pragma once
// The residual stream as a kernel leaves it: x in float, x times the next norm's weight in f16, and
// the sums of squares that the next norm needs. Three writes of one place, so that no product has
// to norm.

#include "gpu/device.cuh"
#include "gpu/kernels.hpp"
#include "gpu/numerics.cuh"

namespace foretoken::gpu {

struct residual_stream {
  float* x;               // [rows][width]
  std::uint16_t* normed;  // [rows][padded]
  float* squares;         // [rows][tiles]
  const float* gain;      // [width]; null: a layer norm follows, which reads x
  int width, padded, range;

  FORETOKEN_DEVICE void load_gain(int tile, int g, bool wanted, float (&out)[2]) const {
    const int a = tile * 16 + g;
    out[0] = gain != nullptr && wanted && a < width ? gain[a] : 0.0f;
    out[1] = gain != nullptr && wanted && a + 8 < width ? gain[a + 8] : 0.0f;
  }
  // Features 16 tile + g and 8 more; eight lanes do a tile, Apart lanes from g to g. Whole warps.
  template <int Apart>
  FORETOKEN_DEVICE void put(
      int tile, int g, int row, float x0, float x1, const float (&gains)[2], bool wanted) const {
    const int a = tile * 16 + g;
    const bool has_low = wanted && a < width;
    const bool has_high = wanted && a + 8 < width;
    float* const to = x + wide(row) * wide(width);
    if (has_low) to[a] = x0;
    if (has_high) to[a + 8] = x1;
    if (gain == nullptr) return;
    std::uint16_t* const half = normed + wide(row) * wide(padded);
    const float scale = power_of_two(-range);
    if (has_low) half[a] = product_input(x0 * gains[0] * scale);
    if (has_high) half[a + 8] = product_input(x1 * gains[1] * scale);
    const float sum = tile_squares<Apart>(has_low ? x0 : 0.0f, has_high ? x1 : 0.0f);
    if (wanted && g == 0 && a < width) {
      squares[wide(row) * wide(square_tiles(width)) + wide(tile)] = sum;
    }
  }
};

inline residual_stream stream_of(const workspace& work, const norm_parameters& next, int width) {
  return {work.x,       work.normed,
          work.squares, next.kind == model::norm_kind::rms ? next.weight : nullptr,
          width,        padded_columns(width),
          next.range};
}

}  // namespace foretoken::gpu
