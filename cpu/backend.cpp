// SPDX-License-Identifier: Apache-2.0
#include "cpu/backend.hpp"

#include <utility>

#include "cpu/dispatch.hpp"
#include "cpu/kv_pool.hpp"
#include "cpu/step.hpp"
#include "cpu/weights.hpp"

namespace foretoken::cpu {

result<std::unique_ptr<model::ops>> make_ops(std::shared_ptr<const weights> from,
                                             const options& chosen) {
  if (chosen.precision != from->precision) {
    return invalid("model.precision", "the weights were prepared for other numerics");
  }
  if (chosen.rows_max < 1) return invalid("cpu.rows_max", "must be at least 1");
  const kv_layout layout(from->shape, from->precision, from->path, chosen.kv);
  auto pool = kv_pool::take(layout, chosen.kv_bytes);
  if (!pool) return std::move(pool).error();
  return std::unique_ptr<model::ops>(
      std::make_unique<step>(std::move(from), chosen, std::move(pool).value()));
}

result<memory_plan> plan_memory(const model::model_file& file, const options& chosen) {
  auto path = choose_isa(chosen.path);
  if (!path) return std::move(path).error();
  const kv_layout layout(file.shape, chosen.precision, *path, chosen.kv);
  memory_plan plan;
  plan.weight_bytes = weight_bytes(file, chosen);
  plan.kv_page_bytes = layout.page_bytes();
  plan.kv_pages = layout.pages_in(chosen.kv_bytes);
  plan.kv_bytes = static_cast<std::uint64_t>(plan.kv_pages) * plan.kv_page_bytes;
  plan.workspace_bytes = workspace_sizes(file.shape, chosen).bytes();
  return plan;
}

}  // namespace foretoken::cpu
