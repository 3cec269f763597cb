// SPDX-License-Identifier: Apache-2.0
#pragma once
// An executor's device over the emulated kernels that remembers every row's raw logits.

#include "gpu/backend.hpp"
#include "gpu/step.hpp"
#include "tests/cpu/made_model.hpp"

namespace foretoken::test {

inline gpu::options gpu_options() {
  gpu::options chosen;
  chosen.rows_max = 128;
  chosen.kv_bytes = 4u << 20;
  return chosen;
}

class gpu_device {
 public:
  explicit gpu_device(const model::model_file& file, const gpu::options& chosen = gpu_options())
      : chosen_(chosen) {
    auto made = gpu::linked().prepare_weights(file, chosen, {});
    REQUIRE_MESSAGE(made, (made ? "" : to_string(made.error())));
    weights_ = *made;
    again();
  }
  // A fresh executor on the same weights.
  void again(bool probed = true) {
    auto made = gpu::step::make(weights_, chosen_);
    REQUIRE_MESSAGE(made, (made ? "" : to_string(made.error())));
    step_ = std::move(*made);
    if (!probed) return;
    step_->probe_logits(
        [](void* context, int, std::span<const float> logits) {
          static_cast<row_logits*>(context)->emplace_back(logits.begin(), logits.end());
        },
        &seen_);
  }
  gpu::step& ops() { return *step_; }
  model::step_result answer(const model::micro_batch& batch) {
    auto out = model::forward(*step_, batch);
    REQUIRE_MESSAGE(out, (out ? "" : to_string(out.error())));
    return *std::move(out);
  }
  row_logits run(const model::micro_batch& batch) {
    seen_.clear();
    answer(batch);
    return std::move(seen_);
  }
  row_logits read(const std::vector<token>& text, const std::vector<page_id>& pages, int chunk) {
    row_logits all;
    for (std::size_t at = 0; at < text.size(); at += static_cast<std::size_t>(chunk)) {
      const auto part =
          run(batch_of({device::slice(text, pages, at, static_cast<std::size_t>(chunk))}));
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

 private:
  gpu::options chosen_;
  std::shared_ptr<const gpu::weights> weights_;
  std::unique_ptr<gpu::step> step_;
  row_logits seen_;
};

}  // namespace foretoken::test
