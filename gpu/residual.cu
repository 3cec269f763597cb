// SPDX-License-Identifier: Apache-2.0
// x += post_norm(W a + b): what ends attention and the feed-forward half of a layer.
//
// One product (linear.cuh) that adds to x in place and leaves what the next norm needs; with a post
// norm it leaves y in float and a second kernel, one warp a row, norms it and adds. Bytes: the
// matrix once; x read and written, its f16 form written.

#include "gpu/linear_launch.cuh"
#include "gpu/residual_stream.cuh"

namespace foretoken::gpu {
namespace {

struct residual_epilogue {
  residual_stream to;
  struct kept {
    float x[2], gain[2];
  };
  FORETOKEN_DEVICE void before_wait(const epilogue_item& item, kept& k) const {
    to.load_gain(item.tile, item.g, item.wanted, k.gain);
  }
  FORETOKEN_DEVICE void after_wait(const epilogue_item& item, kept& k) const {
    const float* from = to.x + wide(item.wanted ? item.row : 0) * wide(to.width);
    const int a = item.tile * 16 + item.g;
    k.x[0] = item.wanted && a < to.width ? from[a] : 0.0f;
    k.x[1] = item.wanted && a + 8 < to.width ? from[a + 8] : 0.0f;
  }
  template <int Apart>
  FORETOKEN_DEVICE void pair(const epilogue_item& item, const kept& k, float y0, float y1) const {
    to.put<Apart>(item.tile, item.g, item.wanted ? item.row : 0, k.x[0] + y0, k.x[1] + y1, k.gain,
                  item.wanted);
  }
};

struct raw_epilogue {
  float* y;  // [rows][width]
  int width;
  struct kept {};
  FORETOKEN_DEVICE void before_wait(const epilogue_item&, kept&) const {}
  FORETOKEN_DEVICE void after_wait(const epilogue_item&, kept&) const {}
  template <int Apart>
  FORETOKEN_DEVICE void pair(const epilogue_item& item, const kept&, float y0, float y1) const {
    const int a = item.tile * 16 + item.g;
    float* to = y + wide(item.wanted ? item.row : 0) * wide(width);
    if (item.wanted && a < width) to[a] = y0;
    if (item.wanted && a + 8 < width) to[a + 8] = y1;
  }
};

struct post_norm_job {
  residual_stream to;
  const float* y;
  const float* gain;
  float epsilon;
  int rows;
};

constexpr int post_warps = 4;

FORETOKEN_KERNEL(post_warps * 32, 1) add_post_norm(const post_norm_job job) {
  const int lane = thread_index() % 32;
  const int row = block_x() * post_warps + thread_index() / 32;
  const int width = job.to.width;
  wait_for_predecessor();
  release_successor();
  if (row < job.rows) {
    const float* y = job.y + wide(row) * wide(width);
    const float* x = job.to.x + wide(row) * wide(width);
    const float inverse = inverse_root(row_sum_of_squares(y, width, lane), width, job.epsilon);
    for (int first = 0; first < square_tiles(width); first += 4) {
      const int tile = first + lane / 8;
      const int a = tile * 16 + lane % 8;
      float v[2] = {0, 0};
      for (int h = 0; h < 2; ++h) {
        const int i = a + 8 * h;
        if (i < width) v[h] = x[i] + normed(y[i], inverse, job.gain[i]);
      }
      float gain[2];
      job.to.load_gain(tile, lane % 8, true, gain);
      job.to.put<1>(tile, lane % 8, row, v[0], v[1], gain, true);
    }
  }
}

status launch_residual(const launch_context& on,
                       const residual_arguments& given,
                       const std::uint16_t* input) {
  if (given.matrix.rows < given.width) return invalid("matrix", "has fewer rows than x is wide");
  const linear_job job{{input, nullptr, nullptr, 0, 0, given.rows, given.matrix.columns},
                       given.matrix};
  const residual_stream to = stream_of(given.work, given.next_norm, given.width);
  if (given.post_norm.weight == nullptr) return launch_linear(on, job, residual_epilogue{to});
  FORETOKEN_TRY(launch_linear(on, job, raw_epilogue{given.work.raw, given.width}));
  const post_norm_job post{to, given.work.raw, given.post_norm.weight, given.post_norm.epsilon,
                           given.rows};
  return launch(on, add_post_norm, {blocks_of(given.rows, post_warps), 1, 1}, post_warps * 32, 0,
                post);
}

}  // namespace

status launch_attention_output(const launch_context& on, const residual_arguments& given) {
  return launch_residual(on, given, given.work.attended);
}

status launch_ffn_output(const launch_context& on, const residual_arguments& given) {
  return launch_residual(on, given, given.work.hidden);
}

}  // namespace foretoken::gpu
