// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

namespace foretoken::tokenizer {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";

std::uint8_t byte_at(std::string_view text, std::size_t i) noexcept {
  return static_cast<std::uint8_t>(text[i]);
}

// Length by lead byte, and the range of the second byte: table 3-7 of the Unicode standard.
struct lead_rule {
  std::uint8_t length, second_min, second_max;
};
constexpr lead_rule rule_of(std::uint8_t lead) noexcept {
  if (lead < 0xC2 || lead > 0xF4) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {4, 0x80, 0xBF};
}

bool is_white_space(char32_t c) noexcept {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

constexpr std::array<char_class, 128> ascii_classes = [] {
  std::array<char_class, 128> table{};
  for (std::size_t c = 0; c < table.size(); ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter) table[c] = char_class::letter;
    if (c >= '0' && c <= '9') table[c] = char_class::number;
    if ((c >= 0x09 && c <= 0x0D) || c == 0x20) table[c] = char_class::white;
  }
  return table;
}();

bool python_strips(char32_t c) noexcept {
  return is_white_space(c) || (c >= 0x1C && c <= 0x1F);
}

// Canonical decomposition of valid UTF-8, combining marks in canonical order. The sort is ours:
// utf8proc's own exchanges neighbours, which is quadratic on a long run of marks.
std::vector<utf8proc_int32_t> decompose(std::string_view text) {
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  constexpr auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  while (!text.empty()) {
    const utf8_part part = utf8_front(text);
    text.remove_prefix(part.bytes);
    std::array<utf8proc_int32_t, 16> parts{};
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(part.value),
                                               parts.data(), 16, options, &boundary);
    if (count < 0 || count > 16) {
      points.push_back(static_cast<utf8proc_int32_t>(part.value));
    } else {
      points.insert(points.end(), parts.begin(), parts.begin() + count);
    }
  }
  const auto rank = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto at = points.begin(); at != points.end();) {
    at = std::find_if(at, points.end(), [&](auto c) { return rank(c) != 0; });
    const auto end = std::find_if(at, points.end(), [&](auto c) { return rank(c) == 0; });
    std::stable_sort(at, end, [&](auto a, auto b) { return rank(a) < rank(b); });
    at = end;
  }
  return points;
}

void append_nfc(std::string_view valid, std::string& out) {
  auto points = decompose(valid);
  constexpr auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const auto size = static_cast<utf8proc_ssize_t>(points.size());
  const auto count = utf8proc_normalize_utf32(points.data(), size, options);
  if (count < 0) {  // cannot happen for valid UTF-8; the text itself is then the best answer
    out.append(valid);
    return;
  }
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    append_utf8(static_cast<char32_t>(points[static_cast<std::size_t>(i)]), out);
  }
}

}  // namespace

utf8_part utf8_front(std::string_view text) noexcept {
  const std::uint8_t lead = byte_at(text, 0);
  if (lead < 0x80) return {utf8_state::whole, 1, lead};
  const lead_rule rule = rule_of(lead);
  if (rule.length == 0) return {utf8_state::invalid, 1, 0};
  char32_t value = lead & (0xFFU >> (rule.length + 1U));
  for (std::uint8_t i = 1; i < rule.length; ++i) {
    if (i >= text.size()) return {utf8_state::incomplete, i, 0};
    const std::uint8_t next = byte_at(text, i);
    const std::uint8_t low = i == 1 ? rule.second_min : 0x80;
    const std::uint8_t high = i == 1 ? rule.second_max : 0xBF;
    if (next < low || next > high) return {utf8_state::invalid, i, 0};
    value = (value << 6U) | (next & 0x3FU);
  }
  return {utf8_state::whole, rule.length, value};
}

std::size_t character_bytes(std::string_view text) noexcept {
  const utf8_part part = utf8_front(text);
  return part.state == utf8_state::whole ? part.bytes : 1;
}

void append_utf8(char32_t value, std::string& out) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(value), bytes.data());
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    out.push_back(static_cast<char>(bytes[static_cast<std::size_t>(i)]));
  }
}

std::size_t append_valid_utf8(std::string_view text, std::string& out) {
  std::size_t begin = 0;  // [begin, at) is valid and not yet appended
  std::size_t at = 0;
  while (at < text.size()) {
    const utf8_part part = utf8_front(text.substr(at));
    if (part.state == utf8_state::incomplete) break;
    if (part.state == utf8_state::invalid) {
      out.append(text.substr(begin, at - begin)).append(replacement);
      begin = at + part.bytes;
    }
    at += part.bytes;
  }
  out.append(text.substr(begin, at - begin));
  return text.size() - at;
}

char_class class_of(char32_t value) noexcept {
  if (value < 128) return ascii_classes[value];
  if (is_white_space(value)) return char_class::white;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(value))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return char_class::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return char_class::number;
    default: return char_class::other;
  }
}

character read_character(std::string_view text) noexcept {
  const std::uint8_t lead = byte_at(text, 0);
  if (lead < 128) return {ascii_classes[lead], 1};
  const utf8_part part = utf8_front(text);
  if (part.state != utf8_state::whole) return {char_class::other, 1};
  return {class_of(part.value), part.bytes};
}

std::string_view strip_white(std::string_view text) noexcept {
  std::size_t begin = text.size();  // first and one past the last character that stays
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const utf8_part part = utf8_front(text.substr(at));
    const bool whole = part.state == utf8_state::whole;
    if (!whole || !python_strips(part.value)) {
      begin = std::min(begin, at);
      end = at + part.bytes;
    }
    at += part.bytes;
  }
  return begin >= end ? std::string_view{} : text.substr(begin, end - begin);
}

std::string normalise_nfc(std::string_view text) {
  const bool ascii = std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 128; });
  if (ascii) return std::string(text);
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    std::size_t valid = 0;
    while (valid < text.size()) {
      const utf8_part part = utf8_front(text.substr(valid));
      if (part.state != utf8_state::whole) break;
      valid += part.bytes;
    }
    if (valid > 0) append_nfc(text.substr(0, valid), out);
    text.remove_prefix(valid);
    if (!text.empty()) {
      out.push_back(text.front());
      text.remove_prefix(1);
    }
  }
  return out;
}

}  // namespace foretoken::tokenizer
