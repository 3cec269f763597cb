// SPDX-License-Identifier: Apache-2.0
// logits = softcap(W_head norm(x)) of the rows that want them: one product (linear.cuh).
// Bytes: the matrix once (SmolLM2 in f16: 57 MB, 18 us at 3.1 TB/s), 4 vocabulary a row written.

#include "gpu/linear_launch.cuh"

namespace foretoken::gpu {
namespace {

struct logits_epilogue {
  float* logits = nullptr;  // [rows][stride]
  int stride = 0;
  float softcap = 0;
  struct kept {};
  FORETOKEN_DEVICE void before_wait(const epilogue_item&, kept&) const {}
  FORETOKEN_DEVICE void after_wait(const epilogue_item&, kept&) const {}
  template <int Apart>
  FORETOKEN_DEVICE void pair(const epilogue_item& item, const kept&, float y0, float y1) const {
    if (!item.wanted) return;
    float* to = logits + wide(item.row) * wide(stride) + item.tile * 16 + item.g;
    to[0] = softcap > 0 ? soft_cap(y0, softcap) : y0;
    to[8] = softcap > 0 ? soft_cap(y1, softcap) : y1;
  }
};

}  // namespace

status launch_head(const launch_context& on, const head_arguments& given) {
  const int width = given.matrix.columns;
  if (given.norm.kind == model::norm_kind::layer) {
    FORETOKEN_TRY(launch_layer_norm(on, given.norm, given.work, given.rows_of_x, width));
  }
  linear_job job{normed_input(given.work, given.norm, given.rows, width), given.matrix};
  job.input.which = given.which;
  return launch_linear(on, job, logits_epilogue{given.logits, given.matrix.rows, given.softcap});
}

}  // namespace foretoken::gpu
