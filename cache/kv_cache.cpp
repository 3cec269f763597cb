// SPDX-License-Identifier: Apache-2.0
#include "cache/kv_cache.hpp"

#include <algorithm>
#include <mutex>
#include <set>

#include "base/assert.hpp"
#include "cache/page_tree.hpp"

namespace foretoken::cache {
namespace {
constexpr page_id none{-1};
constexpr std::size_t index(page_id page) noexcept {
  return static_cast<std::size_t>(page);
}
}  // namespace

struct kv_cache::state {
  struct page_book {
    int leases = 0;
    std::uint64_t used_at = 0;  // logical time: of the last lease given back or path walked
  };

  explicit state(int count) : size(count), books(static_cast<std::size_t>(count)), tree(count) {
    fill_free();
  }

  void fill_free() {
    free.clear();
    for (int i = size; i-- > 0;) free.push_back(page_id{i});  // lowest page handed out first
  }
  int cached() const noexcept { return size - static_cast<int>(free.size()) - used; }
  bool evictable(page_id page) const noexcept {
    return books[index(page)].leases == 0 && tree.holds(page) && tree.leaf(page);
  }
  void track(page_id page) {
    if (evictable(page)) leaves.insert({books[index(page)].used_at, page});
  }
  void untrack(page_id page) { leaves.erase({books[index(page)].used_at, page}); }

  void touch(page_id page) {
    untrack(page);
    books[index(page)].used_at = clock;
    track(page);
  }
  void lease(page_id page) {
    untrack(page);
    page_book& book = books[index(page)];
    if (book.leases++ == 0) ++used;
    book.used_at = clock;
  }
  void release(page_id page) {
    page_book& book = books[index(page)];
    FORETOKEN_ASSERT(book.leases > 0);
    book.used_at = clock;
    if (--book.leases > 0) return;
    --used;
    if (tree.holds(page)) {
      track(page);
    } else {
      free.push_back(page);
    }
  }
  // Takes a leaf out of the tree. A leased one stays with its holders, it only cannot be found
  // again.
  void forget(page_id page) {
    untrack(page);
    const page_id parent = tree.parent(page);
    tree.remove(page);
    if (books[index(page)].leases == 0) free.push_back(page);
    if (parent != none) track(parent);
  }
  void forget_below(page_id page) {
    std::vector<page_id> path{page};  // an explicit stack: prompts are thousands of pages deep
    while (!path.empty()) {
      const page_id last = path.back();
      const std::vector<page_id> children = tree.children(last);
      if (children.empty()) {
        forget(last);
        path.pop_back();
      } else {
        path.insert(path.end(), children.begin(), children.end());
      }
    }
  }
  // REQUIRES cached() > 0. Usually a leaf; when every leaf is leased (a sequence continued a prefix
  // whose pages are another's) the oldest unleased page goes with all that hangs below it.
  void reclaim_one() {
    if (!leaves.empty()) return forget(leaves.begin()->second);
    page_id oldest = none;
    for (int i = 0; i < size; ++i) {
      const page_id page{i};
      if (books[index(page)].leases > 0 || !tree.holds(page)) continue;
      if (oldest == none || books[index(page)].used_at < books[index(oldest)].used_at)
        oldest = page;
    }
    FORETOKEN_ASSERT(oldest != none);
    forget_below(oldest);
  }

  template <class Visit>
  int walk(cache_namespace space, std::span<const token> tokens, Visit&& visit) const {
    page_tree::place where{space, none};
    std::size_t covered = 0;
    while (covered < tokens.size()) {
      const auto rest =
          tokens.subspan(covered, std::min<std::size_t>(page_tokens, tokens.size() - covered));
      const page_tree::match found = tree.best(where, rest);
      if (found.tokens == 0) break;
      visit(found.page);
      covered += static_cast<std::size_t>(found.tokens);
      if (found.tokens < page_tokens) break;
      where.parent = found.page;
    }
    return static_cast<int>(covered);
  }

  mutable std::mutex mutex;
  int size = 0;
  int used = 0;  // pages with at least one lease
  std::uint64_t clock = 0;
  std::vector<page_book> books;
  std::vector<page_id> free;                           // a stack
  std::set<std::pair<std::uint64_t, page_id>> leaves;  // evictable pages, least recently used first
  page_tree tree;
};

kv_cache::kv_cache(int pages) : state_(std::make_unique<state>(std::max(pages, 0))) {}
kv_cache::~kv_cache() = default;

prefix_lease kv_cache::lookup(cache_namespace space, std::span<const token> tokens) {
  const std::lock_guard lock(state_->mutex);
  prefix_lease found;
  found.tokens = state_->walk(space, tokens, [&](page_id page) { found.pages.push_back(page); });
  ++state_->clock;
  for (const page_id page : found.pages) state_->lease(page);
  return found;
}

int kv_cache::peek(cache_namespace space, std::span<const token> tokens) const {
  const std::lock_guard lock(state_->mutex);
  return state_->walk(space, tokens, [](page_id) {});
}

std::optional<std::vector<page_id>> kv_cache::allocate(int count) {
  const std::lock_guard lock(state_->mutex);
  state& s = *state_;
  std::vector<page_id> given;
  if (count <= 0) return given;
  if (static_cast<int>(s.free.size()) + s.cached() < count) return std::nullopt;
  while (static_cast<int>(s.free.size()) < count) s.reclaim_one();
  ++s.clock;
  for (int i = 0; i < count; ++i) {
    given.push_back(s.free.back());
    s.free.pop_back();
    s.lease(given.back());
  }
  return given;
}

void kv_cache::publish(cache_namespace space,
                       std::span<const token> tokens,
                       std::span<const page_id> pages) {
  const std::lock_guard lock(state_->mutex);
  state& s = *state_;
  FORETOKEN_ASSERT(pages.size() == (tokens.size() + page_tokens - 1) / page_tokens);
  ++s.clock;
  page_tree::place where{space, none};
  for (std::size_t i = 0; i < pages.size(); ++i) {
    FORETOKEN_ASSERT(s.books[index(pages[i])].leases > 0);
    const auto part = tokens.subspan(
        i * page_tokens, std::min<std::size_t>(page_tokens, tokens.size() - i * page_tokens));
    if (where.parent != none) s.untrack(where.parent);
    page_id dropped = none;
    const page_id now = s.tree.insert(where, part, pages[i], dropped);
    if (dropped != none && s.books[index(dropped)].leases == 0) {
      s.leaves.erase({s.books[index(dropped)].used_at, dropped});
      s.free.push_back(dropped);
    }
    if (where.parent != none) s.track(where.parent);
    s.touch(now);
    where.parent = now;
  }
}

void kv_cache::release(std::span<const page_id> pages) {
  const std::lock_guard lock(state_->mutex);
  ++state_->clock;
  for (const page_id page : pages) state_->release(page);
}

void kv_cache::reset() {
  const std::lock_guard lock(state_->mutex);
  state& s = *state_;
  s.tree.clear();
  s.leaves.clear();
  std::fill(s.books.begin(), s.books.end(), state::page_book{});
  s.used = 0;
  s.fill_free();
}

void kv_cache::trim(int pages) {
  const std::lock_guard lock(state_->mutex);
  while (state_->cached() > std::max(pages, 0)) state_->reclaim_one();
}

page_counts kv_cache::counts() const {
  const std::lock_guard lock(state_->mutex);
  return {static_cast<int>(state_->free.size()), state_->cached(), state_->used};
}

int kv_cache::pages() const noexcept {
  return state_->size;
}

std::string kv_cache::audit() const {
  const std::lock_guard lock(state_->mutex);
  const state& s = *state_;
  if (auto broken = s.tree.audit(); !broken.empty()) return broken;
  std::vector<int> frees(s.books.size(), 0);
  for (const page_id page : s.free) ++frees[index(page)];
  int used = 0;
  std::size_t evictable = 0;
  for (int i = 0; i < s.size; ++i) {
    const page_id page{i};
    const auto& book = s.books[index(page)];
    const std::string name = "page " + std::to_string(i);
    if (book.leases < 0) return name + " has a negative count of leases";
    const bool idle = book.leases == 0 && !s.tree.holds(page);
    if (frees[index(page)] != (idle ? 1 : 0))
      return name + " is wrongly in or out of the free list";
    used += book.leases > 0 ? 1 : 0;
    const bool tracked = s.leaves.contains({book.used_at, page});
    if (tracked != s.evictable(page)) return name + " is wrongly in or out of the eviction order";
    evictable += tracked ? 1 : 0;
  }
  if (used != s.used) return "the count of used pages is wrong";
  if (evictable != s.leaves.size()) return "the eviction order holds a page twice";
  return {};
}

}  // namespace foretoken::cache
