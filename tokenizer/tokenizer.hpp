// SPDX-License-Identifier: Apache-2.0
#pragma once
// Text to tokens and back. Immutable after make(): any number of threads may use one tokenizer.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "tokenizer/vocabulary.hpp"

namespace foretoken::tokenizer {

struct encode_options {
  bool add_special = true;     // BOS/EOS where the file says so
  bool parse_special = false;  // control-token text becomes control tokens
  bool at_start = true;        // the text is a whole one, or begins it
};

class tokenizer {
 public:
  // Errors: corrupt (vocab gaps, merges of unknown tokens, bad byte tokens, ids out of range).
  static result<std::shared_ptr<const tokenizer>> make(vocabulary_spec spec);
  virtual ~tokenizer() = default;

  // `text` may hold any bytes, NUL too; invalid UTF-8 is encoded byte by byte. O(n log n).
  virtual std::vector<token> encode(std::string_view text, encode_options options = {}) const = 0;

  // The bytes of one token; control tokens give their text only when `show_control`.
  // REQUIRES 0 <= id < size(). Bytes need not be whole characters.
  virtual std::string_view bytes(token id, bool show_control) const = 0;

  // The text of a list, for /detokenize: control tokens shown, incomplete UTF-8 as U+FFFD, the
  // space that SentencePiece puts in front removed at the start.
  virtual std::string decode(const std::vector<token>& ids, bool show_control = true) const = 0;

  virtual int size() const noexcept = 0;
  virtual token bos() const noexcept = 0;
  virtual bool is_control(token id) const noexcept = 0;
  virtual bool is_end_of_generation(token id) const noexcept = 0;
  // A control token's id by its text; -1 when there is none.
  virtual token control(std::string_view text) const noexcept = 0;
  // SentencePiece: a text begins with a space of its own that decode() takes away again.
  virtual bool drops_leading_space() const noexcept { return false; }
};

}  // namespace foretoken::tokenizer
