// SPDX-License-Identifier: Apache-2.0
#include "gpu/memory.hpp"

#include <algorithm>
#include <limits>

#include "base/ids.hpp"
#include "gpu/weights.hpp"

namespace foretoken::gpu {
namespace {

// The driver's context, our code loaded, and recorded steps: 527 to 530 MiB on an H100 with driver
// 580 and CUDA 13.0 (2026-11).
constexpr std::uint64_t context_bytes = 532u << 20;
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

step_sizes::step_sizes(const model::hyperparameters& shape,
                       const options& chosen,
                       std::uint64_t page_bytes)
    : rows(chosen.rows_max),
      tables(chosen.rows_max + 1),
      logits((shape.vocabulary + 15) / 16 * 16),
      pages(static_cast<int>(chosen.kv_bytes / page_bytes)),
      table_stride_max(attention_spans(shape.context) * attention_span / page_tokens) {
  // 32 MiB of logits, but 32 rows at least: the head's weights are read once per so many rows.
  const int fit = static_cast<int>((32u << 20) / (size_of(logits) * sizeof(float)));
  head_rows = std::min(rows, std::clamp(fit, 32, 256));
  host_rows = std::min(head_rows, 64);
}

std::size_t step_sizes::input_values() const noexcept {
  // the step's number; a row: token, position, table, an attention tile (2), a place in `which`, a
  // page copy (2); each array in whole 16 bytes; the page tables
  return size_of(rows) * 8 + 8 * 4 + size_of(tables) * size_of(table_stride_max);
}

workspace_layout lay_out(const model::hyperparameters& padded, const step_sizes& sizes) {
  workspace_layout out;
  out.sizes = workspace_bytes(padded, sizes.rows, sizes.rows, padded.context);
  const gpu::workspace_sizes& w = out.sizes;
  for (const std::size_t bytes :
       {w.x, w.normed, w.squares, w.q, w.attended, w.hidden, w.raw, w.partial, w.arrived,
        size_of(sizes.head_rows) * size_of(sizes.logits) * sizeof(float),
        digest_scratch_bytes(sizes.head_rows, padded.vocabulary),
        sizes.input_values() * sizeof(std::int32_t), sizeof(std::uint32_t)}) {
    out.offsets.push_back(out.bytes);
    out.bytes += whole(bytes);
  }
  return out;
}

pinned_pieces pinned_layout(const step_sizes& sizes) {
  pinned_pieces out;
  out.digests = whole(sizes.input_values() * sizeof(std::int32_t));
  out.logits = out.digests + whole(size_of(sizes.head_rows) * sizeof(logits_digest));
  out.saturated = out.logits + whole(size_of(sizes.host_rows) * size_of(sizes.logits) * 4);
  out.done = out.saturated + whole(sizeof(std::uint32_t));
  out.bytes = out.done + whole(sizeof(std::uint32_t));
  return out;
}

result<memory_plan> plan(const model::model_file& file, const options& chosen) {
  if (chosen.rows_max < 1) return invalid("gpu.rows_max", "must be at least 1");
  auto padded = padded_shape(file.shape);
  if (!padded) return std::move(padded).error();
  padded->context = usable_context(*padded, chosen);
  memory_plan out;
  out.kv_page_bytes = kv_page_bytes(*padded, chosen.kv);
  out.kv_pages = kv_pages(*padded, chosen);
  const auto weights = needs_of(file, chosen, padded->context);
  if (!weights) return weights.error();
  const step_sizes sizes(*padded, chosen, out.kv_page_bytes);
  out.context_bytes = context_bytes;
  out.weight_bytes = weights->bytes;
  out.decode_path = weights->decode_path;
  // One page more than sequences can have: rows that pad a bucket write there.
  out.kv_bytes = (static_cast<std::uint64_t>(out.kv_pages) + 1) * out.kv_page_bytes;
  const auto flights = static_cast<std::uint64_t>(std::max(chosen.flights, 1));
  out.workspace_bytes = flights * lay_out(*padded, sizes).bytes;
  out.pinned_bytes = flights * pinned_layout(sizes).bytes;
  return out;
}

}  // namespace foretoken::gpu
