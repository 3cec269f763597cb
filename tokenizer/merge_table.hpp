// SPDX-License-Identifier: Apache-2.0
#pragma once
// BPE merges between token ids: best rank first, leftmost among equals.

#include <cstdint>
#include <vector>

#include "base/ids.hpp"

namespace foretoken::tokenizer {

struct merge_rule {
  token left, right, merged;
  std::int32_t rank;
};

// Immutable. Rows by left token, sorted by right token: no hash, so no file can make it slow.
class merge_table {
 public:
  merge_table() = default;
  // `rules` in any order; of rules for the same pair the best rank counts.
  merge_table(std::vector<merge_rule> rules, std::size_t vocabulary);

  // The rule for a pair, or nullptr.
  const merge_rule* find(token left, token right) const noexcept;

  // Merges `symbols` in place until no rule fits. O(n log n).
  void merge(std::vector<token>& symbols) const;

 private:
  void merge_short(std::vector<token>& symbols) const;
  void merge_long(std::vector<token>& symbols) const;

  std::vector<std::uint32_t> row_begin_;  // [vocabulary + 1]
  std::vector<merge_rule> rules_;
};

}  // namespace foretoken::tokenizer
