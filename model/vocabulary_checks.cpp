// SPDX-License-Identifier: Apache-2.0
#include "model/vocabulary_checks.hpp"

#include <algorithm>
#include <array>
#include <unordered_set>

namespace foretoken::model {
namespace {

bool is_upper_hex(char c) noexcept {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F');
}

constexpr std::array<std::string_view, 8> end_texts{
    "<|im_end|>",      "<|endoftext|>", "<|eot_id|>", "<|eom_id|>",
    "<|end_of_text|>", "<end_of_turn>", "</s>",       "<eos>"};

status check_merges(const tokenizer::vocabulary_spec& spec, const std::string& keys) {
  std::unordered_set<std::string_view> known;
  if (spec.merges.empty()) return {};
  known.reserve(spec.pieces.size());
  for (const auto& piece : spec.pieces) known.insert(piece);
  std::string whole;
  for (std::size_t i = 0; i < spec.merges.size(); ++i) {
    const auto& [left, right] = spec.merges[i];
    whole.assign(left).append(right);
    if (!known.contains(left) || !known.contains(right) || !known.contains(whole)) {
      return corrupt(keys + "merges", "merge " + std::to_string(i) + " is of unknown tokens");
    }
  }
  return {};
}

}  // namespace

bool is_byte_piece(std::string_view piece) noexcept {
  return piece.size() == 6 && piece.starts_with("<0x") && is_upper_hex(piece[3]) &&
         is_upper_hex(piece[4]) && piece[5] == '>';
}

status check_vocabulary(const tokenizer::vocabulary_spec& spec, const std::string& keys) {
  const auto size = static_cast<token>(spec.pieces.size());
  const std::array<std::pair<const char*, token>, 4> ids{{{"bos_token_id", spec.bos},
                                                          {"eos_token_id", spec.eos},
                                                          {"unknown_token_id", spec.unknown},
                                                          {"padding_token_id", spec.pad}}};
  for (const auto& [name, id] : ids) {
    if (id < -1 || id >= size) return corrupt(keys + name, "the id is outside the vocabulary");
  }
  for (const token id : spec.end_of_generation) {
    if (id < 0 || id >= size)
      return corrupt(keys + "eos_token_id", "an id is outside the vocabulary");
  }
  if (spec.add_bos && spec.bos < 0)
    return corrupt(keys + "bos_token_id", "BOS is added but not named");
  if (spec.add_eos && spec.eos < 0)
    return corrupt(keys + "eos_token_id", "EOS is added but not named");
  for (std::size_t i = 0; i < spec.pieces.size(); ++i) {
    const bool byte = spec.kinds[i] == tokenizer::token_kind::byte;
    if (byte && !is_byte_piece(spec.pieces[i])) {
      return corrupt(keys + "tokens", "byte token " + std::to_string(i) + " is not written <0xNN>");
    }
    if (spec.pieces[i].empty() && spec.kinds[i] != tokenizer::token_kind::unused) {
      return corrupt(keys + "tokens", "token " + std::to_string(i) + " is empty");
    }
  }
  return check_merges(spec, keys);
}

void complete_end_of_generation(tokenizer::vocabulary_spec& spec) {
  auto& ends = spec.end_of_generation;
  if (spec.eos >= 0) ends.push_back(spec.eos);
  for (std::size_t i = 0; i < spec.pieces.size(); ++i) {
    const bool special = spec.kinds[i] == tokenizer::token_kind::control ||
                         spec.kinds[i] == tokenizer::token_kind::user_defined;
    if (special &&
        std::find(end_texts.begin(), end_texts.end(), spec.pieces[i]) != end_texts.end()) {
      ends.push_back(static_cast<token>(i));
    }
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

}  // namespace foretoken::model
