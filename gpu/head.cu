// SPDX-License-Identifier: Apache-2.0
// logits = softcap(W_head norm(x)) of the rows that want them: one product (linear.cuh).
// Or the best of each row alone, of which a row has few places in memory: a larger number wins, so
// the order of arrival does not matter.
// Bytes: the matrix once (SmolLM2 in f16: 57 MB, 18 us at 3.1 TB/s), 4 vocabulary a row written
// unless its best alone is wanted.

#include "gpu/linear_launch.cuh"
#include "gpu/logit_order.cuh"

namespace foretoken::gpu {
namespace {

struct logits_epilogue {
  float* logits = nullptr;  // [rows][stride]
  int stride = 0;
  float softcap = 0;
  best_logits best;
  struct kept {};
  FORETOKEN_DEVICE void before_wait(const epilogue_item&, kept&) const {}
  FORETOKEN_DEVICE void after_wait(const epilogue_item&, kept&) const {}
  template <int Apart>
  FORETOKEN_DEVICE void pair(const epilogue_item& item, const kept&, float y0, float y1) const {
    if (softcap > 0) {
      y0 = soft_cap(y0, softcap);
      y1 = soft_cap(y1, softcap);
    }
    if (best.at != nullptr) return gather<Apart>(item, y0, y1);
    if (!item.wanted) return;
    float* to = logits + wide(item.row) * wide(stride) + item.tile * 16 + item.g;
    to[0] = y0;
    to[8] = y1;
  }
  // The best of the tile's 16 ids to the row's places. Order 0: not there.
  template <int Apart>
  FORETOKEN_DEVICE void gather(const epilogue_item& item, float y0, float y1) const {
    std::uint32_t id = static_cast<std::uint32_t>(item.tile * 16 + item.g);
    const auto order_of = [&](float y, std::uint32_t at) {
      return item.wanted && at < static_cast<std::uint32_t>(best.vocabulary) ? logit_order(y) : 0u;
    };
    std::uint32_t order = order_of(y0, id);
    if (const std::uint32_t upper = order_of(y1, id + 8); upper > order) {
      order = upper;
      id += 8;
    }
    FORETOKEN_UNROLL
    for (int mask = Apart; mask < 8 * Apart; mask *= 2) {
      const std::uint32_t other = shuffle_xor(order, mask), other_id = shuffle_xor(id, mask);
      if (other > order || (other == order && other_id < id)) {
        order = other;
        id = other_id;
      }
    }
    if (item.g != 0 || order == 0) return;
    atomic_max(best.at + wide(item.row) * best.stride + wide(item.tile % best_places),
               static_cast<std::uint64_t>(order) << 32 | static_cast<std::uint32_t>(~id));
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
  return launch_linear(on, job,
                       logits_epilogue{given.logits, given.matrix.rows, given.softcap, given.best});
}

}  // namespace foretoken::gpu
