// SPDX-License-Identifier: Apache-2.0
#pragma once
// Spoiled files of a Hugging Face folder, each with the error it must get. Read from memory by
// safetensors_test.cpp, from disk and by the program in tests/hostile.

#include <string>
#include <vector>

#include "model/json.hpp"
#include "tests/model/spoiled_gguf.hpp"

namespace foretoken::model {

// Two tensors, "a" and "b".
std::string good_safetensors();
// `name` is what errors of the whole file must name.
std::vector<spoiled_file> spoiled_safetensors(const std::string& name);

// Four tokens: </s>, a, b, ab.
json tokenizer_document();
std::vector<spoiled_file> spoiled_tokenizers();

}  // namespace foretoken::model
