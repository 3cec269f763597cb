// SPDX-License-Identifier: Apache-2.0
#pragma once
// safetensors: a JSON header and the bytes of the tensors, without holes or overlaps.

#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "model/tensor_store.hpp"

namespace foretoken::model {

// Adds the file's tensors to `out` as views into `file`. `name` is the file's name, for messages.
// Errors: corrupt; `field` is the tensor or `name`.
status parse_safetensors(std::span<const std::byte> file,
                         const std::string& name,
                         tensor_store& out);

// The shard files that a model.safetensors.index.json names, sorted, without duplicates. Names are
// plain file names: nothing outside the folder can be reached.
result<std::vector<std::string>> parse_shard_index(std::span<const std::byte> text,
                                                   const std::string& name);

}  // namespace foretoken::model
