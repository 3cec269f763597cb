// SPDX-License-Identifier: Apache-2.0
#pragma once
// Identities shared by every layer. An identity is never a plain integer, so they cannot be mixed
// up.

#include <cstdint>

namespace foretoken {

using token = std::int32_t;  // an index into the vocabulary; negative = none

enum class request_id : std::uint64_t {};  // one accepted request, unique in this process
enum class sequence_id : std::uint64_t {
};                                     // one choice of a request (a request with n=3 has three)
enum class page_id : std::int32_t {};  // one KV page of the pool

constexpr int page_tokens = 16;  // positions in one KV page

}  // namespace foretoken
