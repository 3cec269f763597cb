// SPDX-License-Identifier: Apache-2.0
#pragma once
// Small vocabularies that a test can be read with.

#include <doctest/doctest.h>

#include <initializer_list>

#include "tokenizer/byte_alphabet.hpp"
#include "tokenizer/tokenizer.hpp"

namespace foretoken::tokenizer::test {

inline void add(vocabulary_spec& spec, std::string piece, token_kind kind, float score = 0) {
  spec.pieces.push_back(std::move(piece));
  spec.kinds.push_back(kind);
  if (spec.kind == algorithm::sentencepiece_bpe) spec.scores.push_back(score);
}

// Ids 0-255 are the bytes; 256 <|bos|>, 257 <|end|>, 258 the user-defined "##", 259 "###"; then the
// results of the merges in order.
inline vocabulary_spec byte_level_spec(
    std::initializer_list<std::pair<std::string, std::string>> merges = {}) {
  vocabulary_spec spec;
  for (int byte = 0; byte < 256; ++byte) {
    add(spec, byte_to_alphabet(static_cast<std::uint8_t>(byte)), token_kind::normal);
  }
  add(spec, "<|bos|>", token_kind::control);
  add(spec, "<|end|>", token_kind::control);
  add(spec, "##", token_kind::user_defined);
  add(spec, "###", token_kind::user_defined);
  spec.bos = 256;
  spec.eos = 257;
  for (const auto& [left, right] : merges) {
    spec.merges.emplace_back(left, right);
    add(spec, left + right, token_kind::normal);
  }
  return spec;
}

// <unk> 0, <s> 1, </s> 2, the 256 byte tokens from 3, then pieces with scores.
inline vocabulary_spec sentencepiece_spec(
    std::initializer_list<std::pair<std::string, float>> pieces) {
  vocabulary_spec spec;
  spec.kind = algorithm::sentencepiece_bpe;
  spec.pre = pre_tokenizer::none;
  add(spec, "<unk>", token_kind::unknown);
  add(spec, "<s>", token_kind::control);
  add(spec, "</s>", token_kind::control);
  const char* digits = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {
    add(spec, std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">", token_kind::byte);
  }
  for (const auto& [piece, score] : pieces) add(spec, piece, token_kind::normal, score);
  spec.unknown = 0;
  spec.bos = 1;
  spec.eos = 2;
  spec.prefix = space_prefix::always;
  return spec;
}

inline std::shared_ptr<const tokenizer> made(vocabulary_spec spec) {
  auto outcome = tokenizer::make(std::move(spec));
  REQUIRE(outcome);
  return *outcome;
}

}  // namespace foretoken::tokenizer::test
