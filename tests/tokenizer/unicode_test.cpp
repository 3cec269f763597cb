// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode.hpp"

#include <doctest/doctest.h>

#include "tokenizer/byte_alphabet.hpp"

using namespace foretoken::tokenizer;

TEST_CASE("unicode: maximal invalid parts become one replacement character each") {
  struct row {
    std::string in, out;
    std::size_t unfinished;
  };
  const std::string r = "\xEF\xBF\xBD";
  const row table[] = {
      {"", "", 0},
      {"a\xC3\xA9z", "a\xC3\xA9z", 0},
      {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80", 0},
      {"\xC3", "", 1},
      {"a\xF0\x9F\x98", "a", 3},
      {"\xF0\x9F\x98z", r + "z", 0},           // one part of three bytes
      {"\xC0\xAF", r + r, 0},                  // never a lead byte
      {"\xED\xA0\x80", r + r + r, 0},          // a surrogate: its second byte is already wrong
      {"\xF4\x90\x80\x80", r + r + r + r, 0},  // beyond U+10FFFF
      {"\xE0\x80\x80", r + r + r, 0},          // overlong
      {"\x80\xBF", r + r, 0},
      {"\xE2\x82\xE2\x82\xAC", r + "\xE2\x82\xAC", 0},
  };
  for (const row& entry : table) {
    CAPTURE(entry.in);
    std::string out;
    CHECK(append_valid_utf8(entry.in, out) == entry.unfinished);
    CHECK(out == entry.out);
  }
}

TEST_CASE("unicode: classes are those of split expressions") {
  CHECK(class_of(U'\u00BD') == char_class::number);  // one half, No
  CHECK(class_of(U'\u3007') == char_class::number);  // Nl
  CHECK(class_of(U'\u4E00') == char_class::letter);
  CHECK(class_of(U'\u02B0') == char_class::letter);  // Lm
  for (const char32_t c : {U'\u0085', U'\u00A0', U'\u2028', U'\u3000'}) {
    CHECK(class_of(c) == char_class::white);
  }
  for (const char32_t c : {U'\u200B', U'\u2060', U'\uFEFF', U'\u0301'}) {
    CHECK(class_of(c) == char_class::other);
  }
}

TEST_CASE("unicode: normal form C composes, orders marks and keeps invalid bytes") {
  CHECK(normalise_nfc("e\xCC\x81") == "\xC3\xA9");
  CHECK(normalise_nfc("\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB") == "\xED\x95\x9C");  // Hangul
  CHECK(normalise_nfc("q\xCC\x87\xCC\xA3") == "q\xCC\xA3\xCC\x87");
  CHECK(normalise_nfc("\xE2\x84\xAB") == "\xC3\x85");  // Angstrom sign
  CHECK(normalise_nfc(std::string("\xFF"
                                  "e\xCC\x81\0\xC3",
                                  6)) == std::string("\xFF\xC3\xA9\0\xC3", 5));
}

TEST_CASE("unicode: a long run of marks in the wrong order is sorted quickly") {
  std::string text = "a";
  for (int i = 0; i < 250'000; ++i) text += (i & 1) != 0 ? "\xCC\xA3" : "\xCC\x87";
  const std::string normal = normalise_nfc(text);
  CHECK(normal.substr(0, 3) == "\xE1\xBA\xA1");  // a with dot below
}

TEST_CASE("byte alphabet: every byte has a letter of its own and comes back") {
  for (int byte = 0; byte < 256; ++byte) {
    const auto back = alphabet_to_bytes(byte_to_alphabet(static_cast<std::uint8_t>(byte)));
    REQUIRE(back);
    CHECK(*back == std::string(1, static_cast<char>(byte)));
  }
  CHECK(byte_to_alphabet(' ') == "\xC4\xA0");
  CHECK_FALSE(alphabet_to_bytes("a b"));
  CHECK_FALSE(alphabet_to_bytes("\xE2\x96\x81"));
}

TEST_CASE("strip_white: both ends, Unicode white space, nothing inside") {
  CHECK(strip_white(" \n\xC2\xA0"
                    "a b\xE3\x80\x80\t") == "a b");
  CHECK(strip_white(" \n").empty());
  CHECK(strip_white("x") == "x");
}
