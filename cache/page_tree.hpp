// SPDX-License-Identifier: Apache-2.0
#pragma once
// The radix tree behind kv_cache: which token prefixes lie in which pages. One node = one page, so
// a node's index is its page. Single-threaded; knows nothing of leases.
//
// Invariants
//   T1 a node holds 1..16 tokens; only a node of 16 has children
//   T2 among siblings no node's tokens are a prefix of another's (so the best match of any query is
//   a
//      neighbour of its place in the order)
//   T3 a page is at most one node

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "cache/kv_cache.hpp"

namespace foretoken::cache {

// The tokens of one page, ordered as strings are.
struct page_key {
  std::array<token, page_tokens> tokens{};
  int count = 0;
  explicit page_key(std::span<const token> from) noexcept;
  page_key() = default;
  std::span<const token> view() const noexcept {
    return {tokens.data(), static_cast<std::size_t>(count)};
  }
  bool operator<(const page_key& other) const noexcept;
  bool operator==(const page_key& other) const noexcept;
};

using page_children = std::map<page_key, page_id>;

class page_tree {
 public:
  explicit page_tree(int pages) : nodes_(static_cast<std::size_t>(pages)) {}

  // A place in the tree: a namespace's root or a full page.
  struct place {
    cache_namespace space{};
    page_id parent{-1};
  };
  struct match {
    page_id page{-1};
    int tokens = 0;  // 0 = nothing below shares even the first token
  };

  bool holds(page_id page) const noexcept { return at(page).attached; }
  bool leaf(page_id page) const noexcept { return at(page).children.empty(); }
  page_id parent(page_id page) const noexcept { return at(page).where.parent; }

  // The child of `where` that shares most tokens with `wanted` (1..16 tokens).
  match best(const place& where, std::span<const token> wanted) const;
  // Puts `tokens` below `where` in `page`, unless something there already covers them. Returns the
  // page that now covers them; `dropped` is the page of a shorter node that this one made needless,
  // or -1.
  page_id insert(const place& where, std::span<const token> tokens, page_id page, page_id& dropped);
  // REQUIRES holds(page) and leaf(page).
  void remove(page_id page);
  // The children of a page, in order.
  std::vector<page_id> children(page_id page) const;
  void clear();
  // First broken invariant, or empty.
  std::string audit() const;

 private:
  struct node {
    bool attached = false;
    place where;
    page_key key;
    page_children children;
  };
  node& at(page_id page) noexcept { return nodes_[static_cast<std::size_t>(page)]; }
  const node& at(page_id page) const noexcept { return nodes_[static_cast<std::size_t>(page)]; }
  const page_children* below(const place& where) const;
  std::string audit_children(const place& where, const page_children& children, int& seen) const;

  std::vector<node> nodes_;
  std::map<cache_namespace, page_children> roots_;
};

}  // namespace foretoken::cache
