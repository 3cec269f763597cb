// SPDX-License-Identifier: Apache-2.0
#include "cache/kv_cache.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <thread>

#include "doctest/doctest.h"

using namespace foretoken;
using cache::cache_namespace;
using cache::kv_cache;
using cache::page_counts;

namespace {

constexpr cache_namespace home{1}, other{2};

std::vector<token> count_up(int n, int from = 0) {
  std::vector<token> out(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), from);
  return out;
}

int pages_for(std::size_t tokens) {
  return static_cast<int>((tokens + 15) / 16);
}

// Allocates, publishes and keeps the leases.
std::vector<page_id> store(kv_cache& books,
                           cache_namespace space,
                           const std::vector<token>& tokens) {
  auto pages = books.allocate(pages_for(tokens.size()));
  REQUIRE(pages.has_value());
  books.publish(space, tokens, *pages);
  return *pages;
}

void store_and_release(kv_cache& books, cache_namespace space, const std::vector<token>& tokens) {
  books.release(store(books, space, tokens));
}

}  // namespace

TEST_CASE("kv_cache: pages start free and are handed out once") {
  kv_cache books(4);
  CHECK(books.counts() == page_counts{4, 0, 0});
  const auto some = books.allocate(3);
  REQUIRE(some.has_value());
  CHECK(*some == std::vector<page_id>{page_id{0}, page_id{1}, page_id{2}});
  CHECK(books.counts() == page_counts{1, 0, 3});
  CHECK_FALSE(books.allocate(2).has_value());
  CHECK(books.allocate(0)->empty());
  books.release(*some);
  CHECK(books.counts() == page_counts{4, 0, 0});
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: a pool of no pages refuses and does not fall over") {
  kv_cache books(0);
  CHECK_FALSE(books.allocate(1).has_value());
  CHECK(books.lookup(home, count_up(5)).tokens == 0);
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: a lookup finds the longest prefix, down to the token") {
  kv_cache books(8);
  const auto pages = store(books, home, count_up(40));  // 16 + 16 + 8
  SUBCASE("all of it") {
    const auto found = books.lookup(home, count_up(40));
    CHECK(found.tokens == 40);
    CHECK(found.pages == pages);
  }
  SUBCASE("a longer query ends at what is there") {
    CHECK(books.lookup(home, count_up(60)).tokens == 40);
  }
  SUBCASE("whole pages only when the query ends there") {
    const auto found = books.lookup(home, count_up(32));
    CHECK(found.tokens == 32);
    CHECK(found.pages.size() == 2);
  }
  SUBCASE("the middle of a full page is a partial source") {
    const auto found = books.lookup(home, count_up(21));
    CHECK(found.tokens == 21);
    CHECK(found.pages == std::vector<page_id>{pages[0], pages[1]});
  }
  SUBCASE("a query that leaves the path inside a page") {
    auto query = count_up(40);
    query[19] = 999;
    CHECK(books.lookup(home, query).tokens == 19);
    query[0] = 999;
    CHECK(books.lookup(home, query).tokens == 0);
  }
  SUBCASE("another namespace sees nothing") {
    CHECK(books.lookup(other, count_up(40)).tokens == 0);
    CHECK(books.peek(other, count_up(40)) == 0);
  }
  SUBCASE("nothing asked, nothing leased") {
    const auto found = books.lookup(home, {});
    CHECK(found.tokens == 0);
    CHECK(found.pages.empty());
  }
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: the best sibling is found among many") {
  kv_cache books(64);
  std::vector<std::vector<token>> stored;
  for (int i = 0; i < 40; ++i) {
    auto tokens = count_up(16);
    tokens[static_cast<std::size_t>(i % 16)] = 100 + i;
    store_and_release(books, home, tokens);
    stored.push_back(tokens);
  }
  for (int i = 0; i < 40; ++i) {
    auto query = stored[static_cast<std::size_t>(i)];
    query[15] = -5;
    int best = 0;
    for (const auto& s : stored) {
      int n = 0;
      while (n < 16 && s[static_cast<std::size_t>(n)] == query[static_cast<std::size_t>(n)]) ++n;
      best = std::max(best, n);
    }
    CHECK(books.peek(home, query) == best);
  }
}

TEST_CASE("kv_cache: lookup leases, peek does not") {
  kv_cache books(4);
  store_and_release(books, home, count_up(20));
  CHECK(books.counts() == page_counts{2, 2, 0});
  CHECK(books.peek(home, count_up(20)) == 20);
  CHECK(books.counts() == page_counts{2, 2, 0});
  const auto found = books.lookup(home, count_up(20));
  CHECK(books.counts() == page_counts{2, 0, 2});
  const auto again = books.lookup(home, count_up(20));
  books.release(found.pages);
  CHECK(books.counts() == page_counts{2, 0, 2});
  books.release(again.pages);
  CHECK(books.counts() == page_counts{2, 2, 0});
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: the first publisher's pages stay, a duplicate's become free") {
  kv_cache books(6);
  const auto first = store(books, home, count_up(32));
  const auto second = store(books, home, count_up(32));
  const auto found = books.lookup(home, count_up(32));
  CHECK(found.pages == first);
  books.release(found.pages);
  books.release(second);
  CHECK(books.counts() == page_counts{4, 0, 2});
  books.release(first);
  CHECK(books.counts() == page_counts{4, 2, 0});
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: a growing sequence publishes again and again in the same pages") {
  kv_cache books(4);
  auto pages = *books.allocate(3);
  const auto all = count_up(48);
  for (int n = 1; n <= 48; ++n) {
    const std::span<const token> part(all.data(), static_cast<std::size_t>(n));
    books.publish(home, part,
                  std::span(pages).first(static_cast<std::size_t>(pages_for(part.size()))));
    CHECK(books.peek(home, all) == n);
    CHECK(books.audit() == "");
  }
  books.release(pages);
  CHECK(books.counts() == page_counts{1, 3, 0});
}

TEST_CASE("kv_cache: a longer page replaces a partial one that it covers") {
  kv_cache books(4);
  store_and_release(books, home, count_up(5));
  CHECK(books.counts() == page_counts{3, 1, 0});
  store_and_release(books, home, count_up(9));
  CHECK(books.counts() == page_counts{3, 1, 0});
  CHECK(books.peek(home, count_up(9)) == 9);
  store_and_release(books, home, count_up(3));  // covered already
  CHECK(books.counts() == page_counts{3, 1, 0});
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: a leased source survives being replaced in the tree") {
  kv_cache books(4);
  store_and_release(books, home, count_up(5));
  const auto source = books.lookup(home, count_up(5));
  store_and_release(books, home, count_up(16));
  CHECK(books.counts() == page_counts{2, 1, 1});
  const auto more = books.allocate(3);  // evicts the cached page, never the leased one
  REQUIRE(more.has_value());
  CHECK(std::find(more->begin(), more->end(), source.pages[0]) == more->end());
  CHECK_FALSE(books.allocate(1).has_value());
  books.release(source.pages);
  CHECK(books.allocate(1).has_value());
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: eviction takes the least recently used, leaves first") {
  kv_cache books(4);
  store_and_release(books, home, count_up(32));           // pages A0 A1
  store_and_release(books, home, count_up(32, 1000));     // pages B0 B1
  books.release(books.lookup(home, count_up(32)).pages);  // A is younger now
  const auto one = books.allocate(1);
  CHECK(books.peek(home, count_up(32, 1000)) == 16);  // B1 went, its parent stays
  CHECK(books.peek(home, count_up(32)) == 32);
  const auto two = books.allocate(1);
  CHECK(books.peek(home, count_up(32, 1000)) == 0);
  CHECK(books.peek(home, count_up(32)) == 32);
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: whatever counts as cached can be reclaimed") {
  // B continues A's prefix in pages of its own, so A's first page is cached below nobody's lease
  // and has a leased child.
  kv_cache books(4);
  const auto a = store(books, home, count_up(16));
  const auto b = store(books, home, count_up(32));  // its first page is a duplicate
  books.release(a);
  CHECK(books.counts() == page_counts{1, 1, 2});
  const auto rest = books.allocate(2);
  REQUIRE(rest.has_value());
  CHECK(books.counts() == page_counts{0, 0, 4});
  CHECK(books.audit() == "");
  books.release(*rest);
  books.publish(home, count_up(32), b);  // findable again, now in its own pages
  CHECK(books.peek(home, count_up(32)) == 32);
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: trim and reset") {
  kv_cache books(8);
  store_and_release(books, home, count_up(64));
  store_and_release(books, other, count_up(64));
  CHECK(books.counts() == page_counts{0, 8, 0});
  books.trim(5);
  CHECK(books.counts() == page_counts{3, 5, 0});
  books.trim(-1);
  CHECK(books.counts() == page_counts{8, 0, 0});
  const auto kept = store(books, home, count_up(20));
  books.reset();
  CHECK(books.counts() == page_counts{8, 0, 0});
  CHECK(books.peek(home, count_up(20)) == 0);
  CHECK(books.audit() == "");
}

TEST_CASE("kv_cache: random use against a list of everything stored") {
  for (unsigned seed = 1; seed <= 30; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    kv_cache books(400);  // large enough that nothing is evicted: the oracle is exact
    std::vector<std::vector<token>> stored;
    std::vector<std::vector<page_id>> leases;
    for (int i = 0; i < 60; ++i) {
      std::vector<token> tokens;
      for (auto n = random() % 60; n > 0; --n) tokens.push_back(static_cast<token>(random() % 2));
      int best = 0;
      for (const auto& s : stored) {
        const auto n =
            std::mismatch(s.begin(), s.end(), tokens.begin(), tokens.end()).first - s.begin();
        best = std::max(best, static_cast<int>(n));
      }
      const auto found = books.lookup(home, tokens);
      CHECK(found.tokens == best);
      CHECK(static_cast<int>(found.pages.size()) == pages_for(static_cast<std::size_t>(best)));
      leases.push_back(found.pages);
      if (tokens.empty()) continue;
      leases.push_back(store(books, home, tokens));
      stored.push_back(tokens);
      if (random() % 3 == 0) {
        books.release(leases.front());
        leases.erase(leases.begin());
      }
      CHECK(books.audit() == "");
    }
    for (const auto& l : leases) books.release(l);
    CHECK(books.counts().used == 0);
    CHECK(books.audit() == "");
  }
}

TEST_CASE("kv_cache: several threads at once keep the books right") {
  kv_cache books(64);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&books, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 500; ++i) {
        const auto tokens =
            count_up(static_cast<int>(1 + random() % 100), static_cast<int>(random() % 3));
        const auto found = books.lookup(home, tokens);
        if (const auto own = books.allocate(pages_for(tokens.size()))) {
          books.publish(home, tokens, *own);
          books.release(*own);
        }
        books.release(found.pages);
      }
    });
  }
  for (auto& each : threads) each.join();
  CHECK(books.counts().used == 0);
  CHECK(books.audit() == "");
}
