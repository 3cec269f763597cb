// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/vocabulary_index.hpp"

#include "tokenizer/unicode.hpp"

namespace foretoken::tokenizer {
namespace {

std::size_t index(token id) noexcept {
  return static_cast<std::size_t>(id);
}

}  // namespace

void vocabulary_index::index_kinds() {
  const std::size_t count = spec_.pieces.size();
  ids_.reserve(count);
  ends_.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const token_kind kind = spec_.kinds[i];
    const auto id = static_cast<token>(i);
    if (kind == token_kind::unused) continue;
    ids_.try_emplace(spec_.pieces[i], id);
    if (kind == token_kind::control) added_.add(spec_.pieces[i], id, true);
    // User-defined tokens are matched against the text itself, so in its form (no U+2581).
    if (kind == token_kind::user_defined) added_.add(bytes_[i], id, false);
  }
  for (const token id : spec_.end_of_generation) {
    if (id >= 0) ends_[index(id)] = true;
  }
  if (spec_.eos >= 0) ends_[index(spec_.eos)] = true;
}

token vocabulary_index::find_any(std::string_view piece) const noexcept {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

token vocabulary_index::find_piece(std::string_view piece) const noexcept {
  const token id = find_any(piece);
  if (id < 0) return -1;
  const token_kind kind = spec_.kinds[index(id)];
  return kind == token_kind::normal || kind == token_kind::user_defined ? id : -1;
}

token vocabulary_index::control(std::string_view text) const noexcept {
  const token id = find_any(text);
  return id >= 0 && spec_.kinds[index(id)] == token_kind::control ? id : -1;
}

bool vocabulary_index::is_control(token id) const noexcept {
  if (id < 0 || id >= size()) return false;
  const token_kind kind = spec_.kinds[index(id)];
  return kind == token_kind::control || kind == token_kind::unknown;
}

bool vocabulary_index::is_end_of_generation(token id) const noexcept {
  return id >= 0 && id < size() && ends_[index(id)];
}

status vocabulary_index::make_merges() {
  std::vector<merge_rule> rules;
  rules.reserve(spec_.merges.size());
  std::string joined;
  for (std::size_t rank = 0; rank < spec_.merges.size(); ++rank) {
    const auto& [left, right] = spec_.merges[rank];
    joined.assign(left).append(right);
    const merge_rule rule{find_any(left), find_any(right), find_any(joined),
                          static_cast<std::int32_t>(rank)};
    if (rule.left < 0 || rule.right < 0 || rule.merged < 0) {
      return corrupt("tokenizer.merges",
                     "merge " + std::to_string(rank) +
                         " joins or makes a token that is not in the vocabulary");
    }
    // What a user types must never become a control token.
    if (!is_control(rule.merged)) rules.push_back(rule);
  }
  merges_ = merge_table(std::move(rules), spec_.pieces.size());
  decltype(spec_.merges)().swap(spec_.merges);  // the table replaces them
  return {};
}

std::vector<token> vocabulary_index::encode(std::string_view text, encode_options options) const {
  std::vector<token> out;
  out.reserve(text.size() / 3 + 4);
  if (options.add_special && spec_.add_bos) out.push_back(spec_.bos);
  for (std::size_t at = 0; at < text.size();) {
    const added_tokens::match match = added_.find(text, at, options.parse_special);
    if (match.begin > at) {
      encode_plain(text.substr(at, match.begin - at), options.at_start && at == 0, out);
    }
    if (match.id >= 0) out.push_back(match.id);
    at = match.begin + match.bytes;
  }
  if (options.add_special && spec_.add_eos) out.push_back(spec_.eos);
  return out;
}

std::string_view vocabulary_index::bytes(token id, bool show_control) const {
  if (id < 0 || id >= size()) return {};
  if (is_control(id)) return show_control ? std::string_view(spec_.pieces[index(id)]) : "";
  return bytes_[index(id)];
}

std::string vocabulary_index::decode(const std::vector<token>& ids, bool show_control) const {
  std::string raw;
  bool at_start = drops_leading_space();
  for (const token id : ids) {
    std::string_view part = bytes(id, show_control);
    if (at_start && !is_control(id)) {
      if (!part.empty() && part.front() == ' ') part.remove_prefix(1);
      at_start = false;
    }
    raw.append(part);
  }
  std::string out;
  out.reserve(raw.size());
  const std::size_t unfinished = append_valid_utf8(raw, out);
  if (unfinished > 0) out.append("\xEF\xBF\xBD");
  return out;
}

}  // namespace foretoken::tokenizer
