// SPDX-License-Identifier: Apache-2.0
#pragma once
// The books of every device's pool. Immutable but for the books themselves, which lock on their
// own.

#include <memory>
#include <span>
#include <vector>

#include "cache/kv_cache.hpp"

namespace foretoken::cache {

class pools {
 public:
  explicit pools(std::span<const int> pages) {  // of each device
    for (const int each : pages) all_.push_back(std::make_unique<kv_cache>(each));
  }
  int devices() const noexcept { return static_cast<int>(all_.size()); }
  kv_cache& of(int device) const { return *all_.at(static_cast<std::size_t>(device)); }
  page_counts counts() const;  // of all together

 private:
  std::vector<std::unique_ptr<kv_cache>> all_;
};

inline page_counts pools::counts() const {
  page_counts sum;
  for (const auto& each : all_) {
    const page_counts one = each->counts();
    sum = {sum.free + one.free, sum.cached + one.cached, sum.used + one.used};
  }
  return sum;
}

}  // namespace foretoken::cache
