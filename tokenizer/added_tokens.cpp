// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/added_tokens.hpp"

namespace foretoken::tokenizer {
namespace {

std::uint64_t edge(std::uint32_t node, char byte) noexcept {
  return (std::uint64_t{node} << 8U) | static_cast<std::uint8_t>(byte);
}

}  // namespace

void added_tokens::add(std::string_view text, token id, bool control) {
  begins_[static_cast<std::uint8_t>(text.front())] = true;
  std::uint32_t node = 0;
  for (const char byte : text) {
    const auto [child, fresh] = children_.try_emplace(edge(node, byte), nodes_);
    if (fresh) ++nodes_;
    node = child->second;
  }
  ends_.try_emplace(node, ends{id, control});
}

added_tokens::match added_tokens::find(std::string_view text,
                                       std::size_t from,
                                       bool with_control) const noexcept {
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_[static_cast<std::uint8_t>(text[begin])]) continue;
    match longest{begin, 0, -1};
    std::uint32_t node = 0;
    for (std::size_t at = begin; at < text.size(); ++at) {
      const auto child = children_.find(edge(node, text[at]));
      if (child == children_.end()) break;
      node = child->second;
      const auto end = ends_.find(node);
      if (end != ends_.end() && (with_control || !end->second.control)) {
        longest = {begin, at + 1 - begin, end->second.id};
      }
    }
    if (longest.id >= 0) return longest;
  }
  return {text.size(), 0, -1};
}

}  // namespace foretoken::tokenizer
