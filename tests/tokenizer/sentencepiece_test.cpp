// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <random>

#include "tiny_vocabulary.hpp"

using namespace foretoken::tokenizer;
using foretoken::token;
using ids = std::vector<token>;

namespace {

const std::string mark = "\xE2\x96\x81";

vocabulary_spec by_scores() {
  return test::sentencepiece_spec({{mark, -9},
                                   {"a", -10},
                                   {"b", -11},
                                   {"c", -12},
                                   {"ab", -1},
                                   {"bc", -2},
                                   {"abc", -3},
                                   {mark + "a", -4},
                                   {"\xC3\xA9", -13}});
}
constexpr token space = 259, a = 260, b = 261, c = 262, ab = 263, bc = 264, abc = 265,
                space_a = 266;

vocabulary_spec by_merges() {
  auto spec = by_scores();
  spec.scores.clear();
  spec.merges = {{"a", "b"}, {"b", "c"}, {"ab", "c"}, {mark, "a"}};
  spec.byte_fallback = true;
  for (auto& kind : spec.kinds) {  // tokenizer.json tells no byte kinds
    if (kind == token_kind::byte) kind = token_kind::normal;
  }
  return spec;
}

}  // namespace

TEST_CASE("sentencepiece: scores and merges give the same tokens") {
  for (const auto& spec : {by_scores(), by_merges()}) {
    const auto t = test::made(spec);
    CHECK(t->encode("abc") == ids{space, abc});
    CHECK(t->encode("bc a") == ids{space, bc, space_a});
    CHECK(t->encode("ac") == ids{space_a, c});
    CHECK(t->encode("\xC3\xA9") == ids{space, 267});
    CHECK(t->encode("\xE2\x82\xAC") == ids{space, 3 + 0xE2, 3 + 0x82, 3 + 0xAC});
    CHECK(t->encode("\xFF") == ids{space, 3 + 0xFF});
    CHECK(t->encode("").empty());
    CHECK(t->decode(t->encode(" abc  a\xE2\x82\xAC")) == " abc  a\xE2\x82\xAC");
  }
}

TEST_CASE("sentencepiece: the text of a byte, unknown or control token is plain text") {
  const auto t = test::made(by_scores());
  for (const std::string text : {"<0x41>", "<unk>", "</s>"}) {
    CHECK(t->encode(text).size() == text.size() + 1);
    CHECK(t->decode(t->encode(text)) == text);
  }
  CHECK(t->encode("</s>a", {.parse_special = true}) == ids{2, space_a});
}

TEST_CASE("sentencepiece: no space in front when the file wants none") {
  auto spec = by_scores();
  spec.prefix = space_prefix::never;
  const auto t = test::made(spec);
  CHECK(t->encode("abc") == ids{abc});
  CHECK(t->decode(t->encode(" abc")) == " abc");
}

TEST_CASE("sentencepiece: each scheme puts a space in front where its definition says") {
  constexpr token added = 268;
  struct row {
    std::string text;
    ids always, missing, missing_at_start;
  };
  const row table[] = {
      {"a", {space_a}, {space_a}, {space_a}},
      {" a", {space, space_a}, {space_a}, {space_a}},
      {mark + "a", {space, space_a}, {space_a}, {space_a}},
      {"[I]a", {added, space_a}, {added, space_a}, {added, a}},
      {"[I] a", {added, space, space_a}, {added, space_a}, {added, space_a}},
      {"a[I]a", {space_a, added, space_a}, {space_a, added, space_a}, {space_a, added, a}},
  };
  for (auto spec : {by_scores(), by_merges()}) {
    test::add(spec, "[I]", token_kind::user_defined);
    if (!spec.merges.empty()) spec.scores.clear();
    const auto with = [&](space_prefix prefix) {
      spec.prefix = prefix;
      return test::made(spec);
    };
    for (const row& entry : table) {
      CAPTURE(entry.text);
      CHECK(with(space_prefix::always)->encode(entry.text) == entry.always);
      CHECK(with(space_prefix::missing)->encode(entry.text) == entry.missing);
      CHECK(with(space_prefix::missing_at_start)->encode(entry.text) == entry.missing_at_start);
    }
    CHECK(with(space_prefix::missing_at_start)->encode("a", {.at_start = false}) == ids{a});
  }
}

TEST_CASE("sentencepiece: user-defined runs of spaces match the text's own spaces") {
  auto spec = by_scores();
  spec.prefix = space_prefix::never;
  test::add(spec, mark + mark, token_kind::user_defined);
  const auto t = test::made(spec);
  CHECK(t->encode("a  b") == ids{a, 268, b});
  CHECK(t->bytes(268, false) == "  ");
}

TEST_CASE("sentencepiece: one unknown token for a run when bytes have no tokens") {
  auto spec = by_scores();
  for (std::size_t i = 3; i < 259; ++i) spec.kinds[i] = token_kind::unused;
  CHECK(test::made(spec)->encode("xyza") == ids{space, 0, a});
}

TEST_CASE("sentencepiece: long texts of one character are not quadratic") {
  auto spec = by_scores();
  std::string run = "a";
  for (int i = 0; i < 8; ++i) test::add(spec, run += run, token_kind::normal, -5);
  const auto t = test::made(spec);
  for (const char letter : {'a', ' ', '?'}) {
    const std::string text(1 << 20, letter);
    CHECK(t->decode(t->encode(text)) == text);
  }
}

TEST_CASE("sentencepiece: random bytes come back") {
  for (const auto& spec : {by_scores(), by_merges()}) {
    const auto t = test::made(spec);
    std::mt19937 random(5);
    for (int round = 0; round < 200; ++round) {
      std::string text;
      for (auto n = random() % 60; n > 0; --n) text.push_back(static_cast<char>(random() & 0xFFU));
      std::string back;
      for (const token id : t->encode(text)) back.append(t->bytes(id, true));
      if (!text.empty()) CHECK(back == " " + text);
    }
  }
}
