// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/detokenizer.hpp"

#include <doctest/doctest.h>

#include <random>

#include "tiny_vocabulary.hpp"

using namespace foretoken::tokenizer;
using foretoken::token;

TEST_CASE("detokenizer: whole characters only, the rest as U+FFFD at the end") {
  const auto t = test::made(test::byte_level_spec());
  detokenizer stream(t);
  std::string out;
  for (const token id : {0xF0, 0x9F, 0x98}) stream.push(id, out);
  CHECK(out.empty());
  stream.push(0x80, out);
  CHECK(out == "\xF0\x9F\x98\x80");
  stream.push(257, out);  // control tokens are omitted
  stream.push(0xC3, out);
  CHECK(out == "\xF0\x9F\x98\x80");
  stream.finish(out);
  CHECK(out == "\xF0\x9F\x98\x80\xEF\xBF\xBD");
  stream.finish(out);
  CHECK(out == "\xF0\x9F\x98\x80\xEF\xBF\xBD");
}

TEST_CASE("detokenizer: every push gives valid UTF-8 and the sum is the whole decode") {
  const auto t = test::made(test::byte_level_spec());
  std::mt19937 random(9);
  const std::string bytes = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xED\xA0\x80";
  for (int round = 0; round < 1000; ++round) {
    std::vector<token> ids;
    for (auto n = random() % 30; n > 0; --n) {
      ids.push_back(static_cast<unsigned char>(bytes[random() % bytes.size()]));
    }
    detokenizer stream(t);
    std::string all;
    for (const token id : ids) {
      std::string part;
      stream.push(id, part);
      CHECK(t->decode(t->encode(part)) == part);
      all += part;
    }
    stream.finish(all);
    CHECK(all == t->decode(ids, false));
  }
}

TEST_CASE("detokenizer: SentencePiece's first space goes only at the start of a text") {
  const auto t = test::made(test::sentencepiece_spec({{"\xE2\x96\x81", -1},
                                                      {"\xE2\x96\x81"
                                                       "a",
                                                       -2}}));
  for (const bool at_start : {true, false}) {
    detokenizer stream(t, at_start);
    std::string out;
    stream.push(1, out);
    stream.push(260, out);
    stream.push(260, out);
    CHECK(out == (at_start ? "a a" : " a a"));
  }
}

TEST_CASE("stop_matcher: what comes out, however the text is chunked") {
  struct row {
    std::vector<std::string> stops;
    std::string text, out;
    bool stopped;
  };
  const row table[] = {
      {{}, "anything", "anything", false},
      {{""}, "anything", "anything", false},
      {{"\n"}, "one\ntwo", "one", true},
      {{"END"}, "the EN and the END.", "the EN and the ", true},
      {{"END"}, "the EN", "the EN", false},
      {{"aab"}, "aaab", "a", true},
      {{"abcd", "bc"}, "xabcd", "xa", true},  // the stop that ends first
      {{"bc", "abc"}, "xabc", "x", true},     // of two that end together the longest
      {{"abab"}, "abaabab!", "aba", true},
      {{"\xC3\xA9"}, "caf\xC3\xA8\xC3\xA9", "caf\xC3\xA8", true},
  };
  std::mt19937 random(13);
  for (const row& entry : table) {
    CAPTURE(entry.text);
    for (int round = 0; round < 50; ++round) {
      stop_matcher stops(entry.stops);
      std::string out;
      bool stopped = false;
      for (std::size_t at = 0; at < entry.text.size();) {
        const std::size_t n = round == 0 ? entry.text.size() : 1 + random() % 4;
        stopped = stops.push(std::string_view(entry.text).substr(at, n), out);
        at += n;
      }
      CHECK(stopped == entry.stopped);
      stops.finish(out);
      CHECK(out == entry.out);
    }
  }
}

TEST_CASE("stop_matcher: holds back no more than may become a stop") {
  stop_matcher stops({"STOP"});
  std::string out;
  CHECK_FALSE(stops.push("go S", out));
  CHECK(out == "go ");
  CHECK_FALSE(stops.push("TO", out));
  CHECK(out == "go ");
  CHECK_FALSE(stops.push("x", out));
  CHECK(out == "go STOx");
}
