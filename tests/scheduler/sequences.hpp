// SPDX-License-Identifier: Apache-2.0
#pragma once
// Sequences to be planned, and a device's answers.

#include <memory>
#include <numeric>
#include <vector>

#include "scheduler/scheduler.hpp"

namespace foretoken::scheduler::testing {

constexpr cache::cache_namespace home{1};

inline new_sequence make(int id, int prompt, int max_tokens, int from = 0) {
  std::vector<token> tokens(static_cast<std::size_t>(prompt));
  std::iota(tokens.begin(), tokens.end(), from);
  new_sequence out;
  out.id = sequence_id{static_cast<std::uint64_t>(id)};
  out.space = home;
  out.prompt = std::make_shared<const std::vector<token>>(std::move(tokens));
  out.sampling = std::make_shared<const model::sampling_parameters>();
  out.max_tokens = max_tokens;
  return out;
}

// Rows of each slice.
inline std::vector<int> sizes(const model::micro_batch& batch) {
  std::vector<int> out;
  for (const auto& part : batch.slices) out.push_back(static_cast<int>(part.tokens.size()));
  return out;
}

// A device that answers every wish: token 7000 + count, scores in order.
inline model::step_result answer(const model::micro_batch& batch) {
  model::step_result result;
  result.step = batch.step;
  for (const auto& part : batch.slices) {
    model::slice_result one;
    one.sequence = part.sequence;
    if (part.sample_last) one.next.id = 7000 + static_cast<token>(part.generated_count);
    if (part.score_all) {
      for (std::size_t i = 1; i < part.tokens.size(); ++i) {
        model::sampled s;
        s.id = part.tokens[i];
        one.scores.push_back(s);
      }
      if (part.score_next >= 0) {
        model::sampled s;
        s.id = part.score_next;
        one.scores.push_back(s);
      }
    }
    result.slices.push_back(one);
  }
  return result;
}

}  // namespace foretoken::scheduler::testing
