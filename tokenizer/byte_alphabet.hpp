// SPDX-License-Identifier: Apache-2.0
#pragma once
// The alphabet of byte-level BPE: every byte is written as one printable character, the printable
// bytes of Latin-1 as themselves, the other 68 in order from U+0100.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace foretoken::tokenizer {

std::string byte_to_alphabet(std::uint8_t byte);

// The bytes that a stored piece stands for; nothing when a character is not of the alphabet.
std::optional<std::string> alphabet_to_bytes(std::string_view piece);

}  // namespace foretoken::tokenizer
