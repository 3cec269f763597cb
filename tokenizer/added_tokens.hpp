// SPDX-License-Identifier: Apache-2.0
#pragma once
// Finds the tokens that are matched as whole texts before anything else is done to a text.

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "base/ids.hpp"

namespace foretoken::tokenizer {

// A byte trie. Filled while a tokenizer is made, then immutable.
class added_tokens {
 public:
  // REQUIRES: text is not empty. Control tokens match only where the caller allows them.
  void add(std::string_view text, token id, bool control);

  struct match {
    std::size_t begin;  // text.size() when nothing matches
    std::size_t bytes;
    token id;
  };
  // The leftmost match at or after `from`; the longest of those that begin there.
  match find(std::string_view text, std::size_t from, bool with_control) const noexcept;

 private:
  struct ends {
    token id = -1;
    bool control = false;
  };
  std::array<bool, 256> begins_{};  // bytes that begin some token: most positions stop here
  std::unordered_map<std::uint64_t, std::uint32_t> children_;  // node * 256 + byte -> node
  std::unordered_map<std::uint32_t, ends> ends_;
  std::uint32_t nodes_ = 1;  // node 0 is the root
};

}  // namespace foretoken::tokenizer
