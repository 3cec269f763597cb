// SPDX-License-Identifier: Apache-2.0
#include "gpu/memory.hpp"

#include <algorithm>
#include <limits>

#include "base/ids.hpp"
#include "gpu/weights.hpp"

namespace foretoken::gpu {
namespace {

// The driver's context without stacks (runtime_cuda.cpp) and our code loaded: 265 MiB on an H200
// with driver 580 and CUDA 13.0 (2026-11).
constexpr std::uint64_t context_bytes = 268u << 20;
// What it takes to record one kernel: a step of SmolLM2 (155 of them) 0.46 MiB there. Attention of
// long sequences in steps of many rows is several launches (step_sizes::tiles_at_once), which are
// not counted.
constexpr std::uint64_t recorded_kernel_bytes = 3u << 10;
std::uint64_t kernels_of_step(const model::hyperparameters& shape, const options& chosen) {
  int layer = 5;
  if (shape.qk_norm || chosen.kv == kv_form::int8) layer += 1;
  if (shape.post_norms) layer += 2;
  if (shape.norm == model::norm_kind::layer) layer += 2;
  return static_cast<std::uint64_t>(shape.layers * layer + 8);
}
constexpr std::size_t alignment = 256;

std::size_t whole(std::size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}
std::size_t size_of(int n) {
  return static_cast<std::size_t>(n);
}

}  // namespace

std::uint64_t kv_page_bytes(const model::hyperparameters& padded, kv_form form) noexcept {
  static_assert(page_tokens == 16);
  return size_of(padded.layers) * size_of(padded.kv_heads) * kv_head_values(form, padded.head_dim) *
         2;
}

int beside_rows(const options& chosen) noexcept {
  return std::min(chosen.beside_rows_max, chosen.rows_max);
}

int kv_pages(const model::hyperparameters& padded, const options& chosen) noexcept {
  const std::uint64_t pages = chosen.kv_bytes / kv_page_bytes(padded, chosen.kv);
  const std::uint64_t most = std::numeric_limits<std::int32_t>::max() - 1;
  return static_cast<int>(std::min(pages, most));
}

int usable_context(const model::hyperparameters& padded, const options& chosen) noexcept {
  const std::int64_t pool = std::int64_t{kv_pages(padded, chosen)} * page_tokens;
  std::int64_t context = std::min<std::int64_t>(padded.context, pool);
  if (chosen.context_max > 0) context = std::min<std::int64_t>(context, chosen.context_max);
  return static_cast<int>(std::max<std::int64_t>(context, 1));
}

step_sizes::step_sizes(const model::hyperparameters& shape, const options& chosen, int most_rows)
    : rows(most_rows),
      tables(most_rows + 1),
      logits((shape.vocabulary + 15) / 16 * 16),
      pages(kv_pages(shape, chosen)),
      table_stride_max(attention_spans(shape.context) * attention_span / page_tokens) {
  // All tiles at once up to 1,024 positions; of longer sequences fewer a launch, whose blocks (two
  // spans, one group of a KV head) stay as many: 2 rows groups, 768 for 128 rows of SmolLM2.
  constexpr int whole_spans = attention_spans(1024);
  const int spans = attention_spans(shape.context);
  tile_spans = std::max(rows * std::min(spans, whole_spans), spans);
  // Logits of half of the rows, but of 32 at least, as the head's weights are read once per so many
  // rows; of more 128 and 32 MiB at most.
  const int fit = static_cast<int>((32u << 20) / (size_of(logits) * sizeof(float)));
  head_rows = std::min(rows, std::clamp(std::min(rows / 2, fit), 32, 128));
  best_rows = std::min(rows, 128);
  host_rows = std::min(head_rows, 64);
}

int step_sizes::tiles_at_once(int spans) const noexcept {
  return std::min(rows, tile_spans / spans);
}

std::size_t step_sizes::input_values() const noexcept {
  // the step's number; a row: token, position, table, an attention tile (2), a place in `which`, a
  // page copy (2); each array in whole 16 bytes; the page tables
  return size_of(rows) * 8 + 8 * 4 + size_of(tables) * size_of(table_stride_max);
}

workspace_layout lay_out(const model::hyperparameters& padded, const step_sizes& sizes) {
  workspace_layout out;
  out.sizes = workspace_bytes(padded, sizes.rows, sizes.tile_spans);
  const gpu::workspace_sizes& w = out.sizes;
  const std::size_t logits = size_of(sizes.head_rows) * size_of(sizes.logits) * sizeof(float);
  for (const std::size_t bytes :
       {w.x, w.normed, w.squares, w.q, w.attended, w.hidden, w.raw, std::max(w.partial, logits),
        w.arrived, digest_scratch_bytes(sizes.best_rows, padded.vocabulary),
        sizes.input_values() * sizeof(std::int32_t), sizeof(std::uint32_t)}) {
    out.offsets.push_back(out.bytes);
    out.bytes += whole(bytes);
  }
  return out;
}

pinned_pieces pinned_layout(const step_sizes& sizes) {
  pinned_pieces out;
  out.digests = whole(sizes.input_values() * sizeof(std::int32_t));
  out.requests = out.digests + whole(size_of(sizes.rows) * sizeof(logits_digest));
  out.drawn = out.requests + whole(size_of(sizes.head_rows) * sizeof(draw_request));
  out.logits = out.drawn + whole(size_of(sizes.head_rows) * sizeof(drawn_token));
  out.saturated = out.logits + whole(size_of(sizes.host_rows) * size_of(sizes.logits) * 4);
  out.done = out.saturated + whole(sizeof(std::uint32_t));
  out.bytes = out.done + whole(sizeof(std::uint32_t));
  return out;
}

result<memory_plan> plan(const model::model_file& file, const options& chosen) {
  if (chosen.rows_max < 1) return invalid("gpu.rows_max", "must be at least 1");
  if (chosen.flights < 1) return invalid("gpu.flights", "must be at least 1");
  if (chosen.beside_rows_max < 1) return invalid("scheduler.beside_rows_max", "must be at least 1");
  auto padded = padded_shape(file.shape);
  if (!padded) return std::move(padded).error();
  padded->context = usable_context(*padded, chosen);
  memory_plan out;
  out.kv_page_bytes = kv_page_bytes(*padded, chosen.kv);
  out.kv_pages = kv_pages(*padded, chosen);
  const auto weight_bytes = weight_bytes_of(file, chosen, padded->context);
  if (!weight_bytes) return weight_bytes.error();
  out.context_bytes = context_bytes;
  out.weight_bytes = *weight_bytes;
  // One page more than sequences can have: rows that pad a bucket write there.
  out.kv_bytes = (static_cast<std::uint64_t>(out.kv_pages) + 1) * out.kv_page_bytes;
  const step_sizes first(*padded, chosen, chosen.rows_max);
  const step_sizes beside(*padded, chosen, beside_rows(chosen));
  const auto others = static_cast<std::uint64_t>(chosen.flights - 1);
  out.workspace_bytes = lay_out(*padded, first).bytes;
  out.beside_bytes = others * lay_out(*padded, beside).bytes;
  if (chosen.graphs) {
    out.recording_bytes = (recordings_of_first + others * recordings_beside) *
                          kernels_of_step(*padded, chosen) * recorded_kernel_bytes;
  }
  out.pinned_bytes = pinned_layout(first).bytes + others * pinned_layout(beside).bytes;
  return out;
}

}  // namespace foretoken::gpu
