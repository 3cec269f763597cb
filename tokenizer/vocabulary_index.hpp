// SPDX-License-Identifier: Apache-2.0
#pragma once
// The part that both algorithms share: who is who in the vocabulary, added tokens, text of a token.

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"
#include "tokenizer/added_tokens.hpp"
#include "tokenizer/merge_table.hpp"
#include "tokenizer/tokenizer.hpp"

namespace foretoken::tokenizer {

// Immutable after make_tables(). An algorithm derives and says how plain text becomes tokens.
class vocabulary_index : public tokenizer {
 public:
  std::vector<token> encode(std::string_view text, encode_options options) const final;
  std::string_view bytes(token id, bool show_control) const final;
  std::string decode(const std::vector<token>& ids, bool show_control) const final;
  int size() const noexcept final { return static_cast<int>(spec_.pieces.size()); }
  token bos() const noexcept final { return spec_.bos; }
  bool is_control(token id) const noexcept final;
  bool is_end_of_generation(token id) const noexcept final;
  token control(std::string_view text) const noexcept final;
  bool drops_leading_space() const noexcept final { return spec_.prefix != space_prefix::never; }

 protected:
  explicit vocabulary_index(vocabulary_spec spec) : spec_(std::move(spec)) {}

  // Appends the tokens of text that holds no added token. at_start: nothing stands before it.
  virtual void encode_plain(std::string_view text,
                            bool at_start,
                            std::vector<token>& out) const = 0;

  // REQUIRES: validate() passed. `bytes_of` turns a stored piece into its bytes.
  template <class BytesOf>
  void make_tables(BytesOf bytes_of) {
    const std::size_t count = spec_.pieces.size();
    bytes_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      bytes_[i] = bytes_of(spec_.pieces[i], spec_.kinds[i]);
    }
    index_kinds();
  }
  // The merges as ids. Errors: corrupt (a merge of or into a token that is not in the vocabulary).
  status make_merges();

  // A token that text may merge into, by its stored piece; -1 when there is none.
  token find_piece(std::string_view piece) const noexcept;

  vocabulary_spec spec_;
  merge_table merges_;

 private:
  void index_kinds();
  token find_any(std::string_view piece) const noexcept;

  std::vector<std::string> bytes_;                   // [vocabulary]
  std::vector<bool> ends_;                           // [vocabulary] ends a text
  std::unordered_map<std::string_view, token> ids_;  // views into spec_.pieces
  added_tokens added_;
};

// The two algorithms. REQUIRES: validate() passed.
result<std::shared_ptr<const tokenizer>> make_byte_level(vocabulary_spec spec);
result<std::shared_ptr<const tokenizer>> make_sentencepiece(vocabulary_spec spec);

}  // namespace foretoken::tokenizer
