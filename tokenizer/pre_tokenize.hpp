// SPDX-License-Identifier: Apache-2.0
#pragma once
// Cuts text into the pieces inside which BPE merges. Hand-written scanners, one pass, no expression
// engine: each does what the published split expression of its family matches, leftmost first.

#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.hpp"

namespace foretoken::tokenizer {

// Appends the pieces of `text` (views into it, none empty, together the whole text).
void pre_tokenize(pre_tokenizer kind, std::string_view text, std::vector<std::string_view>& pieces);

}  // namespace foretoken::tokenizer
