// SPDX-License-Identifier: Apache-2.0
#pragma once
// The CPU device: weights repacked once and shared, one ops object per executor.

#include <filesystem>
#include <memory>

#include "cpu/options.hpp"
#include "model/model_file.hpp"
#include "model/ops.hpp"

namespace foretoken::cpu {

// Weights in the layout of the chosen instruction set. Immutable; shared by executors.
class weights;

// Errors: unsupported (isa not on this CPU, tensor type), exhausted (memory); of an outline also
// corrupt and not_found (field "packed weights"): load the file whole, then. Afterwards `file` may
// be dropped.
result<std::shared_ptr<const weights>> prepare_weights(const model::model_file& file,
                                                       const options& chosen,
                                                       const model::load_progress& progress = {});

// The file's outline, when its packed weights lie on disk and prepare_weights() can read them; else
// null.
std::shared_ptr<const model::model_file> recall_model(const std::filesystem::path& path,
                                                      const options& chosen);

result<std::unique_ptr<model::ops>> make_ops(std::shared_ptr<const weights> from,
                                             const options& chosen);

// The memory a model will take, as named parts that sum to `total_bytes`; computed before any is
// taken.
struct memory_plan {
  std::uint64_t weight_bytes = 0;     // repacked weights
  std::uint64_t kv_bytes = 0;         // the pool at its fullest
  std::uint64_t workspace_bytes = 0;  // activations, logits, per thread and per row
  int kv_pages = 0;
  std::uint64_t kv_page_bytes = 0;
  std::uint64_t total_bytes() const noexcept { return weight_bytes + kv_bytes + workspace_bytes; }
};
// Error: unsupported (isa not on this CPU).
result<memory_plan> plan_memory(const model::model_file& file, const options& chosen);

// The path that `wanted` takes here: "avx512", "avx2" or "portable"; "none" where it is refused.
const char* path_name(isa wanted) noexcept;

}  // namespace foretoken::cpu
