// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pre_tokenize.hpp"

#include "tokenizer/unicode.hpp"

namespace foretoken::tokenizer {
namespace {

bool is_line_end(char c) noexcept {
  return c == '\r' || c == '\n';
}

// Every function takes the text from the current position on and returns the bytes it matches, 0
// for no match.

std::size_t run_of(char_class kind, std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    const character next = read_character(text.substr(at));
    if (next.kind != kind) break;
    at += next.bytes;
  }
  return at;
}

// 's 't 're 've 'm 'll 'd, lower case only.
std::size_t contraction(std::string_view text) noexcept {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const char a = text[1];
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (text.size() < 3) return 0;
  const char b = text[2];
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

// The same in either case. U+017F (long s) is a case of s in Unicode.
std::size_t contraction_any_case(std::string_view text) noexcept {
  if (text.size() < 2 || text[0] != '\'') return 0;
  if (text.substr(1, 2) == "\xC5\xBF") return 3;
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  const char folded[3] = {'\'', lower(text[1]), text.size() > 2 ? lower(text[2]) : '\0'};
  return contraction(std::string_view(folded, text.size() > 2 ? 3 : 2));
}

// \s+(?!\S)|\s+ : white space up to the last one before something else; a single one as it is.
std::size_t white_run(std::string_view text) noexcept {
  std::size_t at = 0;
  std::size_t last = 0;  // where the last white character begins
  while (at < text.size()) {
    const character next = read_character(text.substr(at));
    if (next.kind != char_class::white) break;
    last = at;
    at += next.bytes;
  }
  return at == text.size() || last == 0 ? at : last;
}

// \s*[\r\n]+ : white space up to and with the last line end in it.
std::size_t white_to_line_end(std::string_view text) noexcept {
  std::size_t match = 0;
  for (std::size_t at = 0; at < text.size();) {
    const character next = read_character(text.substr(at));
    if (next.kind != char_class::white) break;
    at += next.bytes;
    if (is_line_end(text[at - 1])) match = at;
  }
  return match;
}

std::size_t match_gpt2(std::string_view text) noexcept {
  if (const std::size_t n = contraction(text)) return n;
  const std::size_t space = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  const std::string_view rest = text.substr(space);
  const char_class kind = read_character(rest).kind;
  if (kind != char_class::white) return space + run_of(kind, rest);
  return white_run(text);
}

// llama3 and qwen2 differ in how many digits stand together.
std::size_t match_modern(std::string_view text, int digits_max) noexcept {
  if (const std::size_t n = contraction_any_case(text)) return n;
  const character first = read_character(text);
  if (first.kind == char_class::letter) return run_of(char_class::letter, text);
  if (first.kind == char_class::number) {
    std::size_t at = first.bytes;
    for (int i = 1; i < digits_max && at < text.size(); ++i) {
      const character next = read_character(text.substr(at));
      if (next.kind != char_class::number) break;
      at += next.bytes;
    }
    return at;
  }
  if (!is_line_end(text[0])) {
    const std::size_t letters = run_of(char_class::letter, text.substr(first.bytes));
    if (letters > 0) return first.bytes + letters;
  }
  const std::size_t space = text[0] == ' ' ? 1 : 0;
  if (const std::size_t marks = run_of(char_class::other, text.substr(space)); marks > 0) {
    std::size_t at = space + marks;
    while (at < text.size() && is_line_end(text[at])) ++at;
    return at;
  }
  if (const std::size_t n = white_to_line_end(text)) return n;
  return white_run(text);
}

template <class Match>
void cut(std::string_view text, std::vector<std::string_view>& pieces, Match match) {
  while (!text.empty()) {
    const std::size_t n = match(text);
    pieces.push_back(text.substr(0, n));
    text.remove_prefix(n);
  }
}

// Digits are cut out one by one first, so the expression never looks beyond a digit.
void cut_smollm(std::string_view text, std::vector<std::string_view>& pieces) {
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const character next = read_character(text.substr(at));
    if (next.kind == char_class::number) {
      cut(text.substr(begin, at - begin), pieces, match_gpt2);
      pieces.push_back(text.substr(at, next.bytes));
      begin = at + next.bytes;
    }
    at += next.bytes;
  }
  cut(text.substr(begin), pieces, match_gpt2);
}

}  // namespace

void pre_tokenize(pre_tokenizer kind,
                  std::string_view text,
                  std::vector<std::string_view>& pieces) {
  switch (kind) {
    case pre_tokenizer::gpt2: return cut(text, pieces, match_gpt2);
    case pre_tokenizer::smollm: return cut_smollm(text, pieces);
    case pre_tokenizer::llama3:
      return cut(text, pieces, [](std::string_view t) { return match_modern(t, 3); });
    case pre_tokenizer::qwen2:
      return cut(text, pieces, [](std::string_view t) { return match_modern(t, 1); });
    case pre_tokenizer::none: break;
  }
  if (!text.empty()) pieces.push_back(text);
}

}  // namespace foretoken::tokenizer
