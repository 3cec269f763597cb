// SPDX-License-Identifier: Apache-2.0
#pragma once
// Rules for a vocabulary, whatever file it came from.

#include <string>
#include <string_view>

#include "base/result.hpp"
#include "tokenizer/vocabulary.hpp"

namespace foretoken::model {

// "<0xAB>", exactly six characters with upper-case digits, or nothing.
bool is_byte_piece(std::string_view piece) noexcept;

// Merges are of known tokens and give known tokens; byte tokens are well formed; special ids are in
// range. `keys` prefixes the field of an error ("tokenizer.ggml.").
status check_vocabulary(const tokenizer::vocabulary_spec& spec, const std::string& keys);

// Adds eos and every token whose text is known to end a turn or a text.
void complete_end_of_generation(tokenizer::vocabulary_spec& spec);

}  // namespace foretoken::model
