// SPDX-License-Identifier: Apache-2.0
// h = activation(W_gate norm(x)) * (W_up norm(x)), or activation(W_up norm(x) + b).
//
// One product (linear.cuh); gate j and up j stand in rows g and g + 8 of a tile, so one thread has
// both. Bytes: both matrices once, 2 ffn a row written.

#include "gpu/linear_launch.cuh"

namespace foretoken::gpu {
namespace {

struct hidden_epilogue {
  std::uint16_t* hidden = nullptr;  // [rows][stride] f16
  int ffn = 0;
  int stride = 0;
  model::activation_kind activation = model::activation_kind::silu_gate;
  struct kept {};
  FORETOKEN_DEVICE void before_wait(const epilogue_item&, kept&) const {}
  FORETOKEN_DEVICE void after_wait(const epilogue_item&, kept&) const {}
  template <int Apart>
  FORETOKEN_DEVICE void pair(const epilogue_item& item, const kept&, float y0, float y1) const {
    if (!item.wanted) return;
    const int tile = item.tile;
    const int g = item.g;
    std::uint16_t* to = hidden + wide(item.row) * wide(stride);
    if (activation == model::activation_kind::gelu_tanh) {
      const int a = tile * 16 + g;
      if (a < ffn) to[a] = product_input(gelu_tanh(y0));
      if (a + 8 < ffn) to[a + 8] = product_input(gelu_tanh(y1));
      return;
    }
    const bool silu_gate = activation == model::activation_kind::silu_gate;
    const int j = tile * 8 + g;
    if (j < ffn) to[j] = product_input((silu_gate ? silu(y0) : gelu_tanh(y0)) * y1);
  }
};

}  // namespace

status launch_ffn_input(const launch_context& on, const ffn_input_arguments& given) {
  const int width = given.matrix.columns;
  if (given.norm.kind == model::norm_kind::layer) {
    FORETOKEN_TRY(launch_layer_norm(on, given.norm, given.work, given.rows, width));
  }
  const linear_job job{normed_input(given.work, given.norm, given.rows, width), given.matrix};
  return launch_linear(
      on, job,
      hidden_epilogue{given.work.hidden, given.ffn, padded_columns(given.ffn), given.activation});
}

}  // namespace foretoken::gpu
