// SPDX-License-Identifier: Apache-2.0
#pragma once
// From a request as submitted to one that can be scheduled: every field checked, the prompt as
// tokens. Pure functions over the shared, immutable model.

#include "actors/protocol.hpp"

namespace foretoken::actors {

// Checks all that does not need the prompt's tokens. The error's field is the parameter's name.
status validate(const generate_request& request, const loaded_model& model, const options& limits);

// Every id is in the vocabulary.
status check_tokens(const char* field, const std::vector<token>& ids, int vocabulary);

// Bytes of text that encode() would have to tokenize, about: what a chat template adds is counted.
std::size_t prompt_bytes(const generate_request& request) noexcept;

// Fills prompt, and max_tokens cut to the context left. Errors: the prompt is empty or too long.
status encode(accepted_request& accepted, const loaded_model& model);

}  // namespace foretoken::actors
