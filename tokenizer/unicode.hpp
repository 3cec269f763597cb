// SPDX-License-Identifier: Apache-2.0
#pragma once
// UTF-8 and the few Unicode properties that tokenizers ask for. Any bytes are legal input.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace foretoken::tokenizer {

// What stands at the front of some bytes.
enum class utf8_state : std::uint8_t {
  whole,       // a valid character of `bytes` bytes
  invalid,     // `bytes` bytes (1 to 3) that can never become a character: one U+FFFD
  incomplete,  // the bytes end inside what may still become a character
};
struct utf8_part {
  utf8_state state;
  std::uint8_t bytes;
  char32_t value;  // only when whole
};
// REQUIRES: text is not empty.
utf8_part utf8_front(std::string_view text) noexcept;

// Number of bytes of the character in front; 1 for a byte that begins none.
std::size_t character_bytes(std::string_view text) noexcept;

void append_utf8(char32_t value, std::string& out);

// Appends `text` with each maximal invalid part as U+FFFD. Returns how many bytes at the end are an
// unfinished character and were not appended (0 to 3).
std::size_t append_valid_utf8(std::string_view text, std::string& out);

// The classes that split expressions tell apart. A byte of no character is `other`.
enum class char_class : std::uint8_t { other, letter, number, white };
char_class class_of(char32_t value) noexcept;

struct character {
  char_class kind;
  std::uint8_t bytes;
};
character read_character(std::string_view text) noexcept;  // REQUIRES: not empty

// What Python's str.strip() takes away at both ends; chat templates trim so.
std::string_view strip_white(std::string_view text) noexcept;

// Unicode normal form C; bytes that are not UTF-8 stay as they are. O(n log n).
std::string normalise_nfc(std::string_view text);

}  // namespace foretoken::tokenizer
