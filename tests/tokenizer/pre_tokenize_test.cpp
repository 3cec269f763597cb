// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pre_tokenize.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>

using namespace foretoken::tokenizer;
using parts = std::vector<std::string>;

namespace {

parts cut(pre_tokenizer kind, std::string_view text) {
  std::vector<std::string_view> pieces;
  pre_tokenize(kind, text, pieces);
  return parts(pieces.begin(), pieces.end());
}

}  // namespace

TEST_CASE("pre_tokenize: gpt2") {
  const auto kind = pre_tokenizer::gpt2;
  CHECK(cut(kind, "it's  fine") == parts{"it", "'s", " ", " fine"});
  CHECK(cut(kind, "IT'S") == parts{"IT", "'", "S"});
  CHECK(cut(kind, " 1234 ab!?") == parts{" 1234", " ab", "!?"});
  CHECK(cut(kind, "a\n\n b \n") == parts{"a", "\n\n", " b", " \n"});
  CHECK(cut(kind, "   ") == parts{"   "});
  CHECK(cut(kind, "\t\tx") == parts{"\t", "\t", "x"});
}

TEST_CASE("pre_tokenize: smollm cuts digits out one by one first") {
  const auto kind = pre_tokenizer::smollm;
  CHECK(cut(kind, "   52") == parts{"   ", "5", "2"});
  CHECK(cut(kind,
            "a \xC2\xBD"
            "b") == parts{"a", " ", "\xC2\xBD", "b"});
}

TEST_CASE("pre_tokenize: llama3") {
  const auto kind = pre_tokenizer::llama3;
  CHECK(cut(kind, "I'LL go") == parts{"I", "'LL", " go"});
  CHECK(cut(kind, "1234567") == parts{"123", "456", "7"});
  CHECK(cut(kind, " 12") == parts{" ", "12"});
  CHECK(cut(kind, "(word)\n\n x") == parts{"(word", ")\n\n", " x"});
  CHECK(cut(kind, "a \r\n \n  b") == parts{"a", " \r\n \n", " ", " b"});
  CHECK(cut(kind, "\tword") == parts{"\tword"});
  CHECK(cut(kind, "\nword") == parts{"\n", "word"});
  CHECK(cut(kind, "x'\xC5\xBFy") == parts{"x", "'\xC5\xBF", "y"});
}

TEST_CASE("pre_tokenize: qwen2 takes one digit at a time") {
  CHECK(cut(pre_tokenizer::qwen2, "a 12") == parts{"a", " ", "1", "2"});
}

TEST_CASE("pre_tokenize: any bytes, the pieces are the whole text and none is empty") {
  const char alphabet[] = "a'sS 1\n\r\t\xC3\xA9\xE2\x80\xA8\xFF!\xC2\xBD";
  std::mt19937 random(7);
  for (const auto kind : {pre_tokenizer::none, pre_tokenizer::gpt2, pre_tokenizer::llama3,
                          pre_tokenizer::qwen2, pre_tokenizer::smollm}) {
    for (int round = 0; round < 500; ++round) {
      std::string text;
      for (auto n = random() % 40; n > 0; --n) text += alphabet[random() % (sizeof alphabet)];
      std::string joined;
      for (const std::string& piece : cut(kind, text)) {
        CHECK_FALSE(piece.empty());
        joined += piece;
      }
      CHECK(joined == text);
    }
  }
}
