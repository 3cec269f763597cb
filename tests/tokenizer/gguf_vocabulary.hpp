// SPDX-License-Identifier: Apache-2.0
#pragma once
// Reads only the tokenizer's keys of a GGUF file, so that these tests stand below model/. It trusts
// the file: the loader that does not is model/'s.

#include <string>

#include "tokenizer/vocabulary.hpp"

namespace foretoken::tokenizer::test {

struct gguf_tokenizer {
  vocabulary_spec spec;
  std::string chat_template;
};
gguf_tokenizer read_gguf_tokenizer(const std::string& path);

}  // namespace foretoken::tokenizer::test
