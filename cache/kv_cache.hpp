// SPDX-License-Identifier: Apache-2.0
#pragma once
// The books of the KV page pool: who uses which page, and which token prefixes can be found again.
// Holds no keys or values itself (a device does), no clock and no thread; safe to call from several
// threads (one mutex, short sections), so that looking up a prefix costs no message.
//
// A page is in exactly one state:
//   free    nobody refers to it
//   used    leased by at least one live sequence (it may also be findable in the tree)
//   cached  findable in the tree only; can be reclaimed, least recently used first, leaves first
//
// The tree is token-level: edges hold tokens and the pages that cover them. Its root is chosen by a
// namespace hash (model, precision, cache_salt), so nobody reuses or times another's prompt.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"

namespace foretoken::cache {

enum class cache_namespace : std::uint64_t {};

struct page_counts {
  int free = 0, cached = 0, used = 0;
  bool operator==(const page_counts&) const = default;
};

// A leased prefix: `pages` cover `tokens` positions. All but the last are whole. When tokens is not
// a multiple of page_tokens the last page is only a SOURCE: the caller copies its first tokens %
// page_tokens positions into a page of its own before writing, then releases it.
struct prefix_lease {
  int tokens = 0;
  std::vector<page_id> pages;
};

class kv_cache {
 public:
  explicit kv_cache(int pages);
  ~kv_cache();

  // Longest cached prefix of `tokens`; every page returned is leased once. Empty lease when none.
  prefix_lease lookup(cache_namespace space, std::span<const token> tokens);
  // The same length without leasing or touching recency.
  int peek(cache_namespace space, std::span<const token> tokens) const;
  // `count` free pages, leased once each; reclaims cached pages when needed. Nothing when even that
  // does not suffice.
  std::optional<std::vector<page_id>> allocate(int count);
  // Makes the prefix findable. pages cover tokens; the last may be partial. Positions already in
  // the tree keep the pages they have. Leases are unchanged: the caller still releases its own.
  void publish(cache_namespace space,
               std::span<const token> tokens,
               std::span<const page_id> pages);
  void release(std::span<const page_id> pages);
  // The device lost its memory: every page is free, every lease void, the tree empty.
  void reset();
  // Reclaims cached pages until at most `pages` are cached.
  void trim(int pages);

  page_counts counts() const;
  int pages() const noexcept;
  // Full recount of the invariants above; a text of the first violation, empty when all hold.
  std::string audit() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace foretoken::cache
