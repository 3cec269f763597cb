// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the JSON files of a Hugging Face folder say: config.json in both key styles (as published,
// and as transformers 5 writes it), tokenizer.json, tokenizer_config.json and
// generation_config.json.

#include <string>

#include "base/result.hpp"
#include "model/hyperparameters.hpp"
#include "model/json.hpp"
#include "tokenizer/vocabulary.hpp"

namespace foretoken::model {

result<hyperparameters> hugging_face_shape(const json& config);

// The small files may be null. `shape.vocabulary` may exceed the tokens (padded embeddings): the
// rest becomes unused tokens.
// NOLINTNEXTLINE(bugprone-exception-escape): the moves of json are noexcept and do not throw.
struct hugging_face_files {
  json config, generation_config, tokenizer, tokenizer_config;
};
result<tokenizer::vocabulary_spec> hugging_face_vocabulary(const hugging_face_files& files,
                                                           const hyperparameters& shape);

// The template text of tokenizer_config.json, or empty.
std::string hugging_face_chat_template(const json& tokenizer_config);

}  // namespace foretoken::model
