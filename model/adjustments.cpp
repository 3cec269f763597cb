// SPDX-License-Identifier: Apache-2.0
#include "model/adjustments.hpp"

#include <cmath>
#include <cstddef>

namespace foretoken::model {
namespace {

// The list, by id.
class entries {
 public:
  entries(std::vector<adjustment>& list, int vocabulary)
      : list_(list), of_(of_thread()), known_(static_cast<std::size_t>(vocabulary)) {
    if (of_.size() < known_) of_.resize(known_, 0);
  }
  ~entries() {
    for (const adjustment& one : list_) of_[static_cast<std::size_t>(one.id)] = 0;
  }
  bool knows(token id) const noexcept { return id >= 0 && static_cast<std::size_t>(id) < known_; }
  adjustment& entry(token id) {
    int& index = of_[static_cast<std::size_t>(id)];
    if (index == 0) {
      list_.push_back({id});
      index = static_cast<int>(list_.size());
    }
    return list_[static_cast<std::size_t>(index - 1)];
  }

 private:
  static std::vector<int>& of_thread() {
    thread_local std::vector<int> own;
    return own;
  }
  std::vector<adjustment>& list_;
  std::vector<int>& of_;  // index + 1; all zero between calls
  std::size_t known_;
};

bool unbiased(const adjustment& one) noexcept {
  return one.bias == 0 && std::signbit(one.bias);
}

}  // namespace

bool penalises(const sampling_parameters& p) noexcept {
  return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

bool adjusts(const sampling_parameters& p) noexcept {
  return penalises(p) || !p.logit_bias.empty();
}

bool collect_adjustments(const sampling_parameters& p,
                         std::span<const token> prompt,
                         std::span<const token> generated,
                         int vocabulary,
                         std::vector<adjustment>& out) {
  out.clear();
  entries known(out, vocabulary);
  if (penalises(p)) {
    for (const token id : generated) {
      if (known.knows(id)) known.entry(id).subtract += 1;  // occurrences, until all are counted
    }
    for (const token id : prompt) {
      if (known.knows(id)) known.entry(id);
    }
    for (adjustment& one : out) {
      one.repetition = p.repetition_penalty;
      if (one.subtract > 0) one.subtract = p.presence_penalty + p.frequency_penalty * one.subtract;
    }
  }
  bool once = true;
  for (const auto& [id, bias] : p.logit_bias) {
    if (!known.knows(id)) continue;
    adjustment& one = known.entry(id);
    if (unbiased(one)) {
      one.bias = bias;
    } else {
      out.push_back({id, 1, 0, bias});
      once = false;
    }
  }
  return once;
}

}  // namespace foretoken::model
