// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <random>

#include "tiny_vocabulary.hpp"
#include "tokenizer/merge_table.hpp"

using namespace foretoken::tokenizer;
using foretoken::token;
using ids = std::vector<token>;

namespace {

// The definition of BPE, without any cleverness: the best-ranked pair, the leftmost first.
ids merged_slowly(const merge_table& table, ids symbols) {
  for (;;) {
    const merge_rule* best = nullptr;
    std::size_t best_at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const merge_rule* rule = table.find(symbols[i], symbols[i + 1]);
      if (rule != nullptr && (best == nullptr || rule->rank < best->rank)) {
        best = rule;
        best_at = i;
      }
    }
    if (best == nullptr) return symbols;
    symbols[best_at] = best->merged;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

}  // namespace

TEST_CASE("merge_table: short and long words merge as the definition says") {
  std::mt19937 random(11);
  std::vector<merge_rule> rules;
  for (token made = 4; made < 40; ++made) {
    const auto below = static_cast<unsigned>(made);
    rules.push_back({static_cast<token>(random() % below), static_cast<token>(random() % below),
                     made, static_cast<std::int32_t>(random() % 1000)});
  }
  const merge_table table(rules, 40);
  for (int round = 0; round < 2000; ++round) {
    ids symbols(random() % 90);
    for (token& symbol : symbols) symbol = static_cast<token>(random() % 4);
    const ids expected = merged_slowly(table, symbols);
    table.merge(symbols);
    CHECK(symbols == expected);
  }
}

TEST_CASE("byte_level: merges by rank") {
  const auto t = test::made(test::byte_level_spec({{"b", "c"}, {"a", "b"}, {"a", "bc"}}));
  CHECK(t->encode("abc") == ids{262});
  CHECK(t->encode("ab") == ids{261});
  CHECK(t->encode("bcb") == ids{260, 'b'});
}

TEST_CASE(
    "byte_level: user-defined tokens always match, the longest first; control only if asked") {
  const auto t = test::made(test::byte_level_spec());
  CHECK(t->encode("###") == ids{259});
  CHECK(t->encode("####").front() == 259);
  CHECK(t->encode("#####") == ids{259, 258});
  CHECK(t->encode("<|end|>").size() == 7);
  CHECK(t->encode("<|end|>##", {.parse_special = true}) == ids{257, 258});
  CHECK(t->control("<|end|>") == 257);
  CHECK(t->control("##") == -1);
  CHECK(t->is_end_of_generation(257));
}

TEST_CASE("byte_level: BOS and EOS where the file says so and the caller wants them") {
  auto spec = test::byte_level_spec();
  spec.add_bos = spec.add_eos = true;
  const auto t = test::made(spec);
  CHECK(t->encode("") == ids{256, 257});
  CHECK(t->encode("", {.add_special = false}).empty());
}

TEST_CASE("byte_level: a byte without token is dropped and its neighbours meet") {
  auto spec = test::byte_level_spec({{"a", "b"}});
  spec.pieces[1] = "unused byte 1";
  spec.pre = pre_tokenizer::none;  // so that all three bytes are one piece
  const auto t = test::made(spec);
  CHECK(t->encode("a\x01"
                  "b") == ids{260});
}

TEST_CASE("byte_level: ignore_merges takes a whole piece that is in the vocabulary") {
  auto spec = test::byte_level_spec();
  test::add(spec, "hey", token_kind::normal);
  CHECK(test::made(spec)->encode("hey").size() == 3);
  spec.ignore_merges = true;
  CHECK(test::made(spec)->encode("hey") == ids{260});
}

TEST_CASE("byte_level: a merge cannot make a control token") {
  auto spec = test::byte_level_spec();
  test::add(spec, "xy", token_kind::control);
  spec.merges.emplace_back("x", "y");
  CHECK(test::made(spec)->encode("xy").size() == 2);
}

TEST_CASE("byte_level: any bytes come back when every byte has a token") {
  const auto t = test::made(test::byte_level_spec({{"a", "b"}, {"\xC4\xA0", "a"}}));
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (auto n = random() % 100; n > 0; --n) text.push_back(static_cast<char>(random() & 0xFFU));
    std::string back;
    for (const token id : t->encode(text)) back.append(t->bytes(id, true));
    CHECK(back == text);
  }
}

TEST_CASE("byte_level: a megabyte of one character in one piece is not quadratic") {
  const auto t = test::made(test::byte_level_spec({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}}));
  CHECK(t->encode(std::string(1 << 20, 'a')) == ids(1 << 17, 262));
}
