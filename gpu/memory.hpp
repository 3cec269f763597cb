// SPDX-License-Identifier: Apache-2.0
#pragma once
// How much of what a step needs, in one place: the plan that is printed and the buffers that are
// taken come from the same sums.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "gpu/kernels.hpp"
#include "gpu/library.hpp"
#include "gpu/runtime.hpp"
#include "model/hyperparameters.hpp"

namespace foretoken::gpu {

// Bounds of one step object of `rows` rows; `shape` is the padded one, its context what is used
// here.
struct step_sizes {
  int rows = 0;        // most rows of a step
  int tables = 0;      // page tables: one a slice, and table 0 of rows that pad a bucket
  int tile_spans = 0;  // attention tiles of one launch times their spans
  int head_rows = 0;   // rows of logits at once
  int best_rows = 0;   // rows of the head at once where nobody wants logits
  int host_rows = 0;   // rows of logits at once in host memory
  int logits = 0;      // stride of a row of logits
  int pages = 0;       // of the pool, without the page that padding rows write
  int table_stride_max = 0;
  step_sizes(const model::hyperparameters& shape, const options& chosen, int most_rows);
  // Tiles of a step of sequences of so many spans that one launch of attention takes.
  int tiles_at_once(int spans) const noexcept;
  std::size_t input_values() const noexcept;  // 32-bit words a step uploads at most
};

std::uint64_t kv_page_bytes(const model::hyperparameters& padded, kv_form form) noexcept;
// Rows of the step objects beside the first.
int beside_rows(const options& chosen) noexcept;
int kv_pages(const model::hyperparameters& padded, const options& chosen) noexcept;
// The longest sequence: the model's, the option's, and what the pool holds.
int usable_context(const model::hyperparameters& padded, const options& chosen) noexcept;

// Pieces of one buffer by offset. The spans that attention has to merge and the logits share one:
// the head runs when no layer is left.
struct workspace_layout {
  gpu::workspace_sizes sizes{};
  std::vector<std::size_t> offsets;  // in the order of workspace_sizes, then scratch, inputs,
                                     // saturation counter
  std::size_t bytes = 0;
};
workspace_layout lay_out(const model::hyperparameters& padded, const step_sizes& sizes);
// What a step keeps in pinned host memory: inputs first, then the pieces at these offsets.
struct pinned_pieces {
  std::size_t digests = 0;    // [rows]
  std::size_t requests = 0;   // [head_rows] of draws
  std::size_t drawn = 0;      // [head_rows]
  std::size_t logits = 0;     // [host_rows][logits] for the host's sampler
  std::size_t saturated = 0;  // the counter as last read
  std::size_t done = 0;       // the last step's number
  std::size_t bytes = 0;
};
pinned_pieces pinned_layout(const step_sizes& sizes);

// Recorded steps that a step object keeps: of the first, and of each beside it.
constexpr int recordings_of_first = 80;
constexpr int recordings_beside = 52;

result<memory_plan> plan(const model::model_file& file, const options& chosen);

}  // namespace foretoken::gpu
