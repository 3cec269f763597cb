// SPDX-License-Identifier: Apache-2.0
#pragma once
// Finds the tensor of every role by name and checks its shape. Two naming schemes: GGUF's, and
// Hugging Face's (whose gpt2 is a scheme of its own).

#include <string>
#include <vector>

#include "base/result.hpp"
#include "model/file_bytes.hpp"
#include "model/model_file.hpp"
#include "model/tensor_store.hpp"

namespace foretoken::model {

// `owned` receives copies of weights that the file stores transposed (gpt2's safetensors).
// Errors: corrupt (missing, wrong shape), unsupported (a type or a tensor we do not know).
result<model_tensors> assemble_gguf(const tensor_store& store, const hyperparameters& shape);
result<model_tensors> assemble_hugging_face(const tensor_store& store,
                                            const hyperparameters& shape,
                                            std::vector<aligned_bytes>& owned);

}  // namespace foretoken::model
