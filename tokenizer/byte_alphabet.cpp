// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/byte_alphabet.hpp"

#include <array>

#include "tokenizer/unicode.hpp"

namespace foretoken::tokenizer {
namespace {

constexpr bool stands_for_itself(std::size_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

constexpr std::size_t alphabet_end = 0x100 + 68;

constexpr std::array<char32_t, 256> letters = [] {
  std::array<char32_t, 256> table{};
  char32_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    table[byte] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return table;
}();

constexpr std::array<std::int16_t, alphabet_end> bytes_of = [] {
  std::array<std::int16_t, alphabet_end> table{};
  for (auto& entry : table) entry = -1;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    table[letters[byte]] = static_cast<std::int16_t>(byte);
  }
  return table;
}();

}  // namespace

std::string byte_to_alphabet(std::uint8_t byte) {
  std::string out;
  append_utf8(letters[byte], out);
  return out;
}

std::optional<std::string> alphabet_to_bytes(std::string_view piece) {
  std::string out;
  out.reserve(piece.size());
  while (!piece.empty()) {
    const utf8_part part = utf8_front(piece);
    if (part.state != utf8_state::whole || part.value >= alphabet_end) return std::nullopt;
    const std::int16_t byte = bytes_of[part.value];
    if (byte < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte));
    piece.remove_prefix(part.bytes);
  }
  return out;
}

}  // namespace foretoken::tokenizer
