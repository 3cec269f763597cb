// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/merge_table.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <queue>
#include <tuple>

namespace foretoken::tokenizer {
namespace {

// Up to here a scan for the best pair is faster than a queue; most words are far shorter.
constexpr std::size_t short_symbols_max = 32;
constexpr std::int32_t no_rank = std::numeric_limits<std::int32_t>::max();

std::size_t index(token id) noexcept {
  return static_cast<std::size_t>(id);
}

struct candidate {
  std::int32_t rank;
  std::uint32_t at;  // position of the left symbol
  token left, right, merged;
  bool operator>(const candidate& other) const noexcept {
    return std::tie(rank, at) > std::tie(other.rank, other.at);
  }
};
using candidate_queue = std::priority_queue<candidate, std::vector<candidate>, std::greater<>>;

// Symbols as a list that shrinks in place; a symbol merged into its left neighbour becomes -1.
struct symbol_list {
  std::vector<token>& symbols;
  std::vector<std::uint32_t> next, previous;

  explicit symbol_list(std::vector<token>& all)
      : symbols(all), next(all.size() + 1), previous(all.size() + 1) {
    for (std::size_t i = 0; i < next.size(); ++i) {
      next[i] = static_cast<std::uint32_t>(i + 1);
      previous[i] = static_cast<std::uint32_t>(i) - 1U;  // wraps at 0: no predecessor
    }
  }
  bool has(std::uint32_t at) const noexcept { return at < symbols.size(); }
  void absorb_next(std::uint32_t at, token merged) {
    const std::uint32_t gone = next[at];
    symbols[at] = merged;
    symbols[gone] = -1;
    next[at] = next[gone];
    if (has(next[at])) previous[next[at]] = at;
  }
};

}  // namespace

merge_table::merge_table(std::vector<merge_rule> rules, std::size_t vocabulary)
    : row_begin_(vocabulary + 1), rules_(std::move(rules)) {
  std::sort(rules_.begin(), rules_.end(), [](const merge_rule& a, const merge_rule& b) {
    return std::tie(a.left, a.right, a.rank) < std::tie(b.left, b.right, b.rank);
  });
  const auto same_pair = [](const merge_rule& a, const merge_rule& b) {
    return a.left == b.left && a.right == b.right;
  };
  rules_.erase(std::unique(rules_.begin(), rules_.end(), same_pair), rules_.end());
  for (const merge_rule& rule : rules_) ++row_begin_[index(rule.left) + 1];
  for (std::size_t i = 1; i < row_begin_.size(); ++i) row_begin_[i] += row_begin_[i - 1];
}

const merge_rule* merge_table::find(token left, token right) const noexcept {
  if (left < 0 || right < 0 || index(left) + 1 >= row_begin_.size()) return nullptr;
  const merge_rule* begin = rules_.data() + row_begin_[index(left)];
  const merge_rule* end = rules_.data() + row_begin_[index(left) + 1];
  const merge_rule* at = std::lower_bound(
      begin, end, right, [](const merge_rule& rule, token wanted) { return rule.right < wanted; });
  return at != end && at->right == right ? at : nullptr;
}

void merge_table::merge(std::vector<token>& symbols) const {
  if (symbols.size() < 2) return;
  symbols.size() <= short_symbols_max ? merge_short(symbols) : merge_long(symbols);
}

void merge_table::merge_short(std::vector<token>& symbols) const {
  // rules[i] is the rule for symbols i and i+1.
  std::array<const merge_rule*, short_symbols_max> rules{};
  std::size_t count = symbols.size();
  for (std::size_t i = 0; i + 1 < count; ++i) rules[i] = find(symbols[i], symbols[i + 1]);
  for (;;) {
    std::size_t best = 0;
    std::int32_t best_rank = no_rank;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (rules[i] != nullptr && rules[i]->rank < best_rank) {
        best_rank = rules[i]->rank;
        best = i;
      }
    }
    if (best_rank == no_rank) break;
    symbols[best] = rules[best]->merged;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      rules[i] = rules[i + 1];
    }
    --count;
    if (best > 0) rules[best - 1] = find(symbols[best - 1], symbols[best]);
    rules[best] = best + 1 < count ? find(symbols[best], symbols[best + 1]) : nullptr;
  }
  symbols.resize(count);
}

void merge_table::merge_long(std::vector<token>& symbols) const {
  symbol_list list(symbols);
  candidate_queue queue;
  const auto offer = [&](std::uint32_t at) {
    if (!list.has(at) || !list.has(list.next[at])) return;
    const token left = symbols[at];
    const token right = symbols[list.next[at]];
    if (const merge_rule* rule = find(left, right)) {
      queue.push({rule->rank, at, left, right, rule->merged});
    }
  };
  for (std::uint32_t i = 0; i + 1 < symbols.size(); ++i) offer(i);
  while (!queue.empty()) {
    const candidate top = queue.top();
    queue.pop();
    // Either symbol may have been merged away since; then a newer candidate covers the place.
    if (symbols[top.at] != top.left || !list.has(list.next[top.at]) ||
        symbols[list.next[top.at]] != top.right) {
      continue;
    }
    list.absorb_next(top.at, top.merged);
    offer(top.at);
    offer(list.previous[top.at]);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), -1), symbols.end());
}

}  // namespace foretoken::tokenizer
