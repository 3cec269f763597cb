// SPDX-License-Identifier: Apache-2.0
#pragma once
// The answers of the POST endpoints: whole JSON documents or server-sent events.

#include <memory>

#include "net/http_session.hpp"
#include "net/json.hpp"

namespace foretoken::net {

// Each returns null when it has responded already (an error).
std::unique_ptr<http_answer> answer_generate(http_session& out, json_value&& body, bool chat);
std::unique_ptr<http_answer> answer_tokenize(http_session& out, const json_value& body);
void answer_detokenize(http_session& out, const json_value& body);

}  // namespace foretoken::net
