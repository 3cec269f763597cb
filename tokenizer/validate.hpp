// SPDX-License-Identifier: Apache-2.0
#pragma once
// Checks of what a model file says about its tokenizer. The file is hostile input.

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.hpp"
#include "tokenizer/vocabulary.hpp"

namespace foretoken::tokenizer {

// Everything but the merges, which are checked while their table is built. Errors: corrupt; `field`
// is "tokenizer." and the member of vocabulary_spec.
status validate(const vocabulary_spec& spec);

// The byte of a piece of exactly the form <0xNN> with capital hexadecimal digits.
std::optional<std::uint8_t> byte_piece(std::string_view piece) noexcept;

}  // namespace foretoken::tokenizer
