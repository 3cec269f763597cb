// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/validate.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <limits>

#include "tiny_vocabulary.hpp"

using namespace foretoken::tokenizer;

TEST_CASE("make: a bad vocabulary is an error that names the member") {
  struct row {
    const char* fact;
    const char* field;
    std::function<void(vocabulary_spec&)> spoil;
  };
  const row table[] = {
      {"empty", "tokenizer.pieces", [](auto& s) { s.pieces.clear(), s.kinds.clear(); }},
      {"gap", "tokenizer.pieces", [](auto& s) { s.pieces[7].clear(); }},
      {"duplicate", "tokenizer.pieces", [](auto& s) { s.pieces[7] = s.pieces[8]; }},
      {"control like a normal one", "tokenizer.pieces",
       [](auto& s) { s.pieces[256].assign(1, 'a'); }},
      {"empty control token", "tokenizer.pieces", [](auto& s) { s.pieces[256].clear(); }},
      {"empty user token", "tokenizer.pieces", [](auto& s) { s.pieces[258].clear(); }},
      {"huge piece", "tokenizer.pieces", [](auto& s) { s.pieces[7].assign(5000, 'x'); }},
      {"huge control token", "tokenizer.pieces", [](auto& s) { s.pieces[256].assign(257, 'x'); }},
      {"huge user token", "tokenizer.pieces", [](auto& s) { s.pieces[258].assign(257, 'x'); }},
      {"byte token <0x-1>", "tokenizer.pieces",
       [](auto& s) { test::add(s, "<0x-1>", token_kind::byte); }},
      {"byte token too long", "tokenizer.pieces",
       [](auto& s) { test::add(s, "<0x100>", token_kind::byte); }},
      {"kinds too few", "tokenizer.kinds", [](auto& s) { s.kinds.pop_back(); }},
      {"no such kind", "tokenizer.kinds", [](auto& s) { s.kinds[3] = static_cast<token_kind>(9); }},
      {"scores too few", "tokenizer.scores",
       [](auto& s) {
         s.scores = {1, 2};
       }},
      {"score NaN", "tokenizer.scores",
       [](auto& s) { s.scores.assign(s.pieces.size(), std::numeric_limits<float>::quiet_NaN()); }},
      {"bos outside", "tokenizer.bos", [](auto& s) { s.bos = 100000; }},
      {"bos below", "tokenizer.bos", [](auto& s) { s.bos = -2; }},
      {"eos outside", "tokenizer.eos", [](auto& s) { s.eos = std::numeric_limits<int>::max(); }},
      {"bos added but none", "tokenizer.bos", [](auto& s) { s.bos = -1, s.add_bos = true; }},
      {"eos added but none", "tokenizer.eos", [](auto& s) { s.eos = -1, s.add_eos = true; }},
      {"end outside", "tokenizer.end_of_generation",
       [](auto& s) {
         s.end_of_generation = {1, 300000};
       }},
      {"merge of unknown", "tokenizer.merges", [](auto& s) { s.merges.emplace_back("a", "zz"); }},
      {"merge into unknown", "tokenizer.merges", [](auto& s) { s.merges.emplace_back("a", "z"); }},
      {"merge of nothing", "tokenizer.merges", [](auto& s) { s.merges.emplace_back("", ""); }},
      {"algorithm", "tokenizer.kind", [](auto& s) { s.kind = static_cast<algorithm>(7); }},
  };
  for (const row& entry : table) {
    CAPTURE(entry.fact);
    auto spec = test::byte_level_spec({{"a", "b"}});
    entry.spoil(spec);
    const auto outcome = tokenizer::make(std::move(spec));
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().code == foretoken::errc::corrupt);
    CHECK(outcome.error().field == entry.field);
  }
}

TEST_CASE("make: SentencePiece without scores or merges is an error") {
  auto spec = test::sentencepiece_spec({{"a", 0}});
  spec.scores.clear();
  const auto outcome = tokenizer::make(std::move(spec));
  REQUIRE_FALSE(outcome);
  CHECK(outcome.error().field == "tokenizer.scores");
}

TEST_CASE("make: places kept free may look alike") {
  auto spec = test::byte_level_spec();
  for (int i = 0; i < 3; ++i) test::add(spec, "", token_kind::unused);
  CHECK(tokenizer::make(std::move(spec)));
}

TEST_CASE("make: 200,000 equal merges load") {
  auto spec = test::byte_level_spec({{"a", "b"}});
  spec.merges.resize(200'000, {"a", "b"});
  CHECK(test::made(std::move(spec))->encode("ab").size() == 1);
}

TEST_CASE("byte_piece: only the exact form") {
  CHECK(byte_piece("<0x00>") == 0);
  CHECK(byte_piece("<0xFF>") == 255);
  for (const char* bad : {"<0x-1>", "<0xff>", "<0xF>", "<0xFFF>", "0xFF", "<0xG0>", ""}) {
    CHECK_FALSE(byte_piece(bad));
  }
}
