// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/validate.hpp"

#include <cmath>
#include <string>
#include <unordered_set>

namespace foretoken::tokenizer {
namespace {

constexpr std::size_t vocabulary_max = std::size_t{1} << 24U;  // the largest published is near 2^18
constexpr std::size_t merges_max = std::size_t{1} << 25U;
constexpr std::size_t piece_bytes_max = 4096;  // bounds what one look-up in a text can cost
// Each byte of a text may be compared with so many of an added token; published ones have up to
// about 100.
constexpr std::size_t added_bytes_max = 256;

std::string number(std::size_t value) {
  return std::to_string(value);
}

status check_sizes(const vocabulary_spec& spec) {
  const std::size_t size = spec.pieces.size();
  if (size == 0) return corrupt("tokenizer.pieces", "the vocabulary is empty");
  if (size > vocabulary_max) {
    return corrupt("tokenizer.pieces", "the vocabulary has " + number(size) + " tokens, at most " +
                                           number(vocabulary_max) + " are accepted");
  }
  if (spec.kinds.size() != size) {
    return corrupt("tokenizer.kinds", "there are " + number(spec.kinds.size()) +
                                          " token kinds for " + number(size) + " tokens");
  }
  if (spec.merges.size() > merges_max) {
    return corrupt("tokenizer.merges", "there are more than " + number(merges_max) + " merges");
  }
  const bool needs_scores = spec.kind == algorithm::sentencepiece_bpe && spec.merges.empty();
  if (spec.scores.size() != size && (needs_scores || !spec.scores.empty())) {
    return corrupt("tokenizer.scores", "there are " + number(spec.scores.size()) + " scores for " +
                                           number(size) + " tokens");
  }
  for (std::size_t i = 0; i < spec.scores.size(); ++i) {
    if (std::isnan(spec.scores[i])) {
      return corrupt("tokenizer.scores", "the score of token " + number(i) + " is not a number");
    }
  }
  return {};
}

status check_id(const char* field, token id, std::size_t size) {
  if (id >= -1 && (id < 0 || static_cast<std::size_t>(id) < size)) return {};
  return corrupt(field, "token id " + std::to_string(id) + " is not in the vocabulary of " +
                            number(size) + " tokens");
}

status check_ids(const vocabulary_spec& spec) {
  const std::size_t size = spec.pieces.size();
  FORETOKEN_TRY(check_id("tokenizer.bos", spec.bos, size));
  FORETOKEN_TRY(check_id("tokenizer.eos", spec.eos, size));
  FORETOKEN_TRY(check_id("tokenizer.unknown", spec.unknown, size));
  FORETOKEN_TRY(check_id("tokenizer.pad", spec.pad, size));
  for (const token id : spec.end_of_generation) {
    FORETOKEN_TRY(check_id("tokenizer.end_of_generation", id, size));
  }
  if (spec.add_bos && spec.bos < 0) {
    return corrupt("tokenizer.bos", "BOS is to be added, but the file names no BOS token");
  }
  if (spec.add_eos && spec.eos < 0) {
    return corrupt("tokenizer.eos", "EOS is to be added, but the file names no EOS token");
  }
  return {};
}

status check_piece(std::size_t id, const std::string& piece, token_kind kind) {
  const bool added = kind == token_kind::control || kind == token_kind::user_defined;
  if (piece.empty() && added) {
    return corrupt("tokenizer.pieces", "added token " + number(id) + " is empty");
  }
  if (piece.empty() && kind != token_kind::unused) {
    return corrupt("tokenizer.pieces",
                   "the vocabulary has a gap: token " + number(id) + " is empty");
  }
  const std::size_t bytes_max = added ? added_bytes_max : piece_bytes_max;
  if (piece.size() > bytes_max) {
    return corrupt("tokenizer.pieces", (added ? "added token " : "token ") + number(id) + " has " +
                                           number(piece.size()) + " bytes, at most " +
                                           number(bytes_max) + " are accepted");
  }
  if (kind == token_kind::byte && !byte_piece(piece)) {
    return corrupt("tokenizer.pieces",
                   "byte token " + number(id) + " is not of the form <0x00> to <0xFF>");
  }
  return {};
}

status check_pieces(const vocabulary_spec& spec) {
  std::unordered_set<std::string_view> seen;
  seen.reserve(spec.pieces.size());
  for (std::size_t id = 0; id < spec.pieces.size(); ++id) {
    const token_kind kind = spec.kinds[id];
    if (kind > token_kind::unused) {
      return corrupt("tokenizer.kinds", "token " + number(id) + " is of no known kind");
    }
    FORETOKEN_TRY(check_piece(id, spec.pieces[id], kind));
    // Places that are kept free may look alike: nothing ever looks them up.
    if (kind == token_kind::unused) continue;
    if (!seen.insert(spec.pieces[id]).second) {
      return corrupt("tokenizer.pieces",
                     "token " + number(id) + " has the same text as a token before it");
    }
  }
  return {};
}

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

}  // namespace

std::optional<std::uint8_t> byte_piece(std::string_view piece) noexcept {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return std::nullopt;
  const int high = hex_digit(piece[3]);
  const int low = hex_digit(piece[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<std::uint8_t>(high * 16 + low);
}

status validate(const vocabulary_spec& spec) {
  FORETOKEN_TRY(check_sizes(spec));
  FORETOKEN_TRY(check_ids(spec));
  return check_pieces(spec);
}

}  // namespace foretoken::tokenizer
