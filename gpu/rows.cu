// SPDX-License-Identifier: Apache-2.0
// Work on single rows and pages: the embedding, layer norms, copies of pages.

#include "gpu/linear_launch.cuh"
#include "gpu/packed_value.cuh"
#include "gpu/residual_stream.cuh"

namespace foretoken::gpu {
namespace {

// ---- x = embedding[token] * scale (+ positions[position])
// ---------------------------------------- Reads out of the matrix as the head has it packed: 16
// bytes hold 8 values of one row, no more are wasted than a sector's rest. One block a row; bytes:
// 2 to 4 width read, 4 width written.

struct embed_job {
  embed_arguments given;
  residual_stream to;
};

constexpr int embed_threads = 128;

FORETOKEN_KERNEL(embed_threads, 1) embed_rows(const embed_job job) {
  const embed_arguments& given = job.given;
  // In this order: kernels to come read the step's inputs before they wait, and the predecessor may
  // be the one that brings them.
  wait_for_predecessor();
  release_successor();
  const int row = block_x();
  const int width = given.table.columns;
  const int token = given.rows.token[row];
  const int position = given.rows.position[row];
  const int g = thread_index() % 8;
  for (int first = 0; first < square_tiles(width); first += embed_threads / 8) {
    const int tile = first + thread_index() / 8;
    float v[2] = {0, 0};
    for (int h = 0; h < 2; ++h) {
      const int i = tile * 16 + g + 8 * h;
      if (i >= width) continue;
      v[h] = packed_value(given.table, token, i) * given.scale;
      if (given.positions.codes != nullptr) v[h] += packed_value(given.positions, position, i);
    }
    float gain[2];
    job.to.load_gain(tile, g, true, gain);
    job.to.put<1>(tile, g, row, v[0], v[1], gain, true);
  }
}

// ---- layer norm: x to the f16 input of a product
// --------------------------------------------------- One warp a row, four a block. Bytes: 4 width
// read, 2 written.

struct layer_norm_job {
  const float* x;
  std::uint16_t* normed;
  norm_parameters norm;
  int rows, width, padded;
};

constexpr int layer_norm_rows = 4;

FORETOKEN_KERNEL(layer_norm_rows * 32, 1) layer_norm_rows_kernel(const layer_norm_job job) {
  const int lane = thread_index() % 32;
  const int row = block_x() * layer_norm_rows + thread_index() / 32;
  wait_for_predecessor();
  release_successor();
  if (row < job.rows) {
    const float* x = job.x + wide(row) * wide(job.width);
    const float mean = row_mean(x, job.width, lane);
    const float inverse =
        inverse_root(row_squared_deviation(x, job.width, mean, lane), job.width, job.norm.epsilon);
    for (int i = lane; i < job.width; i += 32) {
      const float bias = job.norm.bias != nullptr ? job.norm.bias[i] : 0.0f;
      const float v = fused_multiply_add((x[i] - mean) * inverse, job.norm.weight[i], bias);
      job.normed[wide(row) * wide(job.padded) + wide(i)] = product_input(v);
    }
  }
}

// ---- a step's inputs from the host, and the word to the host that it is done
// ---------------------- 16 bytes a thread and turn: 65 KB take 2 us over PCIe 5.

constexpr int take_threads = 256;
constexpr int take_blocks_max = 32;

FORETOKEN_KERNEL(take_threads, 1) take_inputs(const take_inputs_arguments given) {
  wait_for_predecessor();
  release_successor();
  const auto* const from = static_cast<const u32x4*>(given.from);
  auto* const to = static_cast<u32x4*>(given.to);
  const std::size_t count = given.bytes / sizeof(u32x4);
  const std::size_t stride = wide(grid_x()) * take_threads;
  FORETOKEN_UNROLL_BY(1)
  for (std::size_t i = wide(block_x()) * take_threads + wide(thread_index()); i < count;
       i += stride) {
    to[i] = load_host_16(from + i);
  }
}

FORETOKEN_KERNEL(32, 1) announce(const announce_arguments given) {
  wait_for_predecessor();
  if (thread_index() == 0) store_release_host(given.flag, *given.number);
}

// ---- whole pages, every layer
// ----------------------------------------------------------------------

constexpr int copy_threads = 128;

struct copy_job {
  std::uint16_t* base;
  std::size_t page_values, layer_values;
  const std::int32_t* pairs;
};

FORETOKEN_KERNEL(copy_threads, 1) copy_pages(const copy_job job) {
  wait_for_predecessor();
  release_successor();
  std::uint16_t* const layer = job.base + wide(block_y()) * job.layer_values;
  const std::uint16_t* from = layer + wide(job.pairs[2 * block_x()]) * job.page_values;
  std::uint16_t* to = layer + wide(job.pairs[2 * block_x() + 1]) * job.page_values;
  for (std::size_t i = wide(thread_index()) * 8; i < job.page_values; i += copy_threads * 8) {
    *reinterpret_cast<u32x4*>(to + i) = *reinterpret_cast<const u32x4*>(from + i);
  }
}

}  // namespace

status launch_embed(const launch_context& on, const embed_arguments& given) {
  if (given.rows.rows < 1) return {};
  const embed_job job{given, stream_of(given.work, given.next_norm, given.table.columns)};
  return launch(on, embed_rows, {given.rows.rows, 1, 1}, embed_threads, 0, job);
}

status launch_take_inputs(const launch_context& on, const take_inputs_arguments& given) {
  const int blocks = blocks_of(static_cast<int>(given.bytes / sizeof(u32x4)), take_threads);
  return launch(on, take_inputs, {blocks < take_blocks_max ? blocks : take_blocks_max, 1, 1},
                take_threads, 0, given);
}

status launch_announce(const launch_context& on, const announce_arguments& given) {
  return launch(on, announce, {1, 1, 1}, 32, 0, given);
}

status launch_layer_norm(const launch_context& on,
                         const norm_parameters& norm,
                         const workspace& work,
                         int rows,
                         int width) {
  const layer_norm_job job{work.x, work.normed, norm, rows, width, padded_columns(width)};
  return launch(on, layer_norm_rows_kernel, {blocks_of(rows, layer_norm_rows), 1, 1},
                layer_norm_rows * 32, 0, job);
}

status launch_page_copies(const launch_context& on, const page_copy_arguments& given) {
  if (given.count < 1) return {};
  const copy_job job{given.pool.base, given.pool.page_values(), given.pool.layer_values(),
                     given.pairs};
  return launch(on, copy_pages, {given.count, given.layers, 1}, copy_threads, 0, job);
}

workspace_sizes workspace_bytes(const model::hyperparameters& shape, int rows_max, int tile_spans) {
  const auto size = [](int n) { return wide(n); };
  const std::size_t rows = size(rows_max);
  const int queries = shape.heads * shape.head_dim;
  const int qkv = queries + 2 * shape.kv_heads * shape.head_dim;
  const int group = shape.heads / shape.kv_heads;
  const std::size_t groups = size(shape.kv_heads * blocks_of(group, query_columns));
  workspace_sizes sizes{};
  sizes.x = rows * size(shape.width) * 4;
  sizes.normed = rows * size(padded_columns(shape.width)) * 2;
  sizes.squares = rows * size(square_tiles(shape.width)) * 4;
  sizes.q = rows * size(queries) * 2;
  sizes.attended = rows * size(padded_columns(queries)) * 2;
  sizes.hidden = rows * size(padded_columns(shape.ffn)) * 2;
  sizes.raw = rows * size(qkv > shape.width ? qkv : shape.width) * 4;
  sizes.partial = size(tile_spans) * groups * query_columns * size(shape.head_dim + 2) * 4;
  sizes.arrived = rows * groups * 4;
  return sizes;
}

}  // namespace foretoken::gpu
