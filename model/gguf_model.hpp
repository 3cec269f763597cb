// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a GGUF file's metadata says about the network and the tokenizer.

#include "base/result.hpp"
#include "model/gguf.hpp"
#include "model/hyperparameters.hpp"
#include "tokenizer/vocabulary.hpp"

namespace foretoken::model {

// Errors: corrupt, unsupported; `field` is the metadata key or tensor.
result<hyperparameters> gguf_shape(const gguf_contents& from);
result<tokenizer::vocabulary_spec> gguf_vocabulary(const gguf_contents& from,
                                                   const hyperparameters& shape);

}  // namespace foretoken::model
